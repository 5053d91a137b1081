"""Arrow in and out: values, and the ownership of memory."""

from __future__ import annotations

import duckdb
import numpy
import pandas
import polars
import pyarrow as pa
import pytest

import cenote
from cenote.errors import InvalidInputError, NotFoundError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("word", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("at", pa.timestamp("us")),
    ]
)
ROWS = pa.table(
    {
        "id": [1, 2, 3],
        "word": ["a", None, "ü"],
        "score": [0.5, float("inf"), None],
        "tags": [["x", "y"], [], None],
        "at": pa.array([0, 1_700_000_000_000_000, None], pa.timestamp("us")),
    },
    schema=SCHEMA,
)


@pytest.mark.parametrize(
    "give",
    [
        lambda rows: rows,
        lambda rows: rows.combine_chunks().to_batches()[0],
        lambda rows: pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=2)),
        lambda rows: polars.from_arrow(rows),
        lambda rows: duckdb.sql("SELECT * FROM rows"),
        lambda rows: rows.to_pandas(types_mapper=pandas.ArrowDtype),
    ],
    ids=["table", "batch", "reader", "polars", "duckdb", "pandas"],
)
def test_what_comes_in_as_arrow_goes_out_the_same(lake: cenote.Lake, give) -> None:
    table = lake.create_table("t", SCHEMA, primary_key="id")
    assert table.upsert(give(ROWS))["inserted"] == 3
    assert table.to_arrow().sort_by("id").equals(ROWS)
    assert table.to_polars().sort("id").equals(polars.from_arrow(ROWS))
    assert table.to_pandas().sort_values("id")["word"].tolist()[0] == "a"
    seen = lake.sql("SELECT * FROM t ORDER BY id")
    assert duckdb.sql("SELECT sum(id) FROM seen").fetchall() == [(6,)]


def test_results_are_handed_over_without_a_copy(numbers: cenote.Table) -> None:
    rows = numbers.read(["id"])
    first, second = pa.table(rows), pa.table(rows)
    assert first["id"].chunk(0).buffers()[1].address == second["id"].chunk(0).buffers()[1].address
    frame = polars.DataFrame(rows)
    assert frame["id"].to_arrow().buffers()[1].address == first["id"].chunk(0).buffers()[1].address


def test_a_result_is_read_once_as_a_stream_and_as_often_as_one_likes_when_kept(lake: cenote.Lake) -> None:
    result = lake.sql("SELECT 1 AS one")
    assert pa.table(result).num_rows == 1
    with pytest.raises(InvalidInputError, match="read already"):
        pa.table(result)
    kept = lake.sql("SELECT 1 AS one")
    assert len(kept) == 1
    assert kept.to_arrow().equals(pa.table(kept))


def test_iteration_reads_a_result_batch_by_batch(lake: cenote.Lake) -> None:
    table = lake.create_table("t", {"id": int}, primary_key="id")
    table.upsert({"id": range(10)})
    result = table.scan(batch_rows=4)
    begun = iter(result)
    first = next(begun)["id"]
    another = next(result.batches())
    assert 0 < len(another) < 10, "the rows were read at once"
    assert sorted([first, *(row["id"] for row in another), *(row["id"] for row in begun)]) == list(range(10))
    with pytest.raises(InvalidInputError, match="read already"):
        iter(result)
    # `list` asks for the length, which reads the result into memory.
    assert [list(table.scan(limit=0)), len(list(table.scan(batch_rows=3)))] == [[], 10]


def test_a_large_write_is_one_version(lake: cenote.Lake) -> None:
    table = lake.create_table("t", {"id": int, "payload": bytes}, primary_key="id")
    before = table.version

    def batches():
        for start in range(0, 160, 10):
            yield pa.record_batch({"id": range(start, start + 10), "payload": [bytes(1 << 20)] * 10})

    reader = pa.RecordBatchReader.from_batches(pa.schema({"id": pa.int64(), "payload": pa.binary()}), batches())
    written = table.upsert(reader)
    assert written["inserted"] == 160 == len(table)
    assert {row["version"] for write in table.changes(before) for row in write} == {written["version"]}


def test_an_error_in_the_middle_of_a_stream_writes_nothing(lake: cenote.Lake) -> None:
    table = lake.create_table("t", {"id": int}, primary_key="id")

    def batches():
        yield pa.record_batch({"id": [1]})
        raise RuntimeError("the source broke")

    with pytest.raises(InvalidInputError, match="the source broke"):
        table.upsert(pa.RecordBatchReader.from_batches(pa.schema({"id": pa.int64()}), batches()))
    assert len(table) == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (42, "Arrow data, a dict of columns or a list of dicts, found int"),
        ("rows", "found str"),
        ([1, 2], "row 0 is a int"),
        ({"id": 1}, "`id` must be a list of values, found int"),
        ({"idd": [1]}, "no column `idd`: did you mean `id`\\?; there are id, word, at"),
        ({"id": ["x"]}, "column `id` is Int64, and row 0 has 'x'"),
        ({"id": [1], "at": [[1.0]]}, "vectors of 2 numbers, and row 0 has 1"),
        ({"id": [1, 1]}, "same key"),
        (pa.table({"id": pa.array(["x"])}), "column `id` is Int64 and cannot hold x of row 0"),
        (pa.table({"word": ["x"]}), "id"),
        (pa.array([1, 2]), "rows are a struct array, found Int64"),
    ],
)
def test_what_is_no_row_is_refused_with_what_is_wrong(numbers: cenote.Table, data, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        numbers.upsert(data)
    assert isinstance(caught.value, cenote.Error)
    assert len(numbers) == 100


NESTED = pa.struct([("a", pa.struct([("b", pa.list_(pa.int8())), ("c", pa.string())]))])
NESTED_VALUES = [{"a": {"b": [1], "c": "x"}}, {"a": None}, {"a": {"b": None, "c": None}}, None] * 4


@pytest.mark.parametrize("start", [0, 1, 3, 9])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (NESTED, NESTED_VALUES),
        (pa.list_(NESTED), [[value, None] for value in NESTED_VALUES]),
        (pa.struct([("v", pa.list_(pa.list_(pa.int8(), 2), 2))]), [{"v": [[k, 1], None]} for k in range(15)] + [None]),
        (pa.struct([("v", pa.struct([("b", pa.bool_())]))]), [{"v": {"b": k % 3 == 0}} for k in range(16)]),
    ],
    ids=["struct", "list", "fixed", "bits"],
)
def test_slices_of_nested_structs_come_in_as_what_they_show(
    lake: cenote.Lake, kind: pa.DataType, values: list, start: int
) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("v", kind)])
    rows = pa.table({"id": range(16), "v": pa.array(values, kind)}, schema=schema).slice(start, 6)
    for name, given in [("stream", rows), ("array", rows.combine_chunks().to_batches()[0])]:
        table = lake.create_table(name, schema, primary_key="id")
        assert table.upsert(given)["inserted"] == 6
        assert table.update(given.slice(1))["updated"] == 5
        assert sorted(table.read().to_pylist(), key=lambda row: row["id"]) == rows.to_pylist()
        assert table.delete(given.slice(2))["deleted"] == 4


def test_a_struct_within_a_fixed_size_list_is_read_when_sliced(lake: cenote.Lake) -> None:
    table = lake.create_table("t", {"id": int, "v": pa.list_(pa.struct([("x", pa.int32())]))}, primary_key="id")
    values = [[{"x": k}, {"x": -k}] for k in range(6)]
    given = pa.array(values, pa.list_(pa.struct([("x", pa.int32())]), 2))
    table.upsert(pa.table({"id": range(6), "v": given}).slice(2, 3))
    assert sorted(row["v"][0]["x"] for row in table.read()) == [2, 3, 4]


def test_no_rows_are_written_as_none(numbers: cenote.Table) -> None:
    version = numbers.version
    for nothing in ([], {}, {"id": []}, pa.table({"id": pa.array([], pa.int64())})):
        assert numbers.upsert(nothing) == {"version": version, "inserted": 0, "updated": 0, "deleted": 0}
        assert numbers.update(nothing)["updated"] == 0
    for rows in ([{}], [{"id": 1}, {}]):
        with pytest.raises(InvalidInputError, match=f"row {len(rows) - 1} is an empty dict"):
            numbers.upsert(rows)


@pytest.mark.parametrize("count", [-1, 1.5, 2**70, "1"])
def test_a_count_is_a_whole_number(numbers: cenote.Table, count) -> None:
    with pytest.raises(InvalidInputError, match="`k` must be a whole number from 0 on"):
        numbers.search(vector=[1, 1], k=count)
    for name in ("limit", "batch_rows"):
        with pytest.raises(InvalidInputError, match=f"`{name}` must be a whole number from 0 on"):
            numbers.read(**{name: count})
    assert len(numbers.search(vector=[1, 1], k=numpy.int64(3))) == len(numbers.read(limit=numpy.int8(3))) == 3


def test_columns_are_a_list(numbers: cenote.Table) -> None:
    for ask in (numbers.scan, numbers.loader, lambda columns: numbers.search(vector=[0, 0], columns=columns)):
        with pytest.raises(InvalidInputError, match=r"columns must be a list: write \['id'\]"):
            ask("id")


def test_a_column_that_is_asked_for_twice_is_there_once(numbers: cenote.Table) -> None:
    twice = ["word", "id", "word"]
    for fold in (False, True):
        if fold:
            numbers.fold()
        assert numbers.read(twice).columns == ["word", "id"]
        assert numbers.get_many([1, 2], columns=twice).columns == ["word", "id"]
        assert numbers.search(vector=[1, 1], k=2, columns=[*twice, "_distance", "_distance"]).columns == [
            "word",
            "id",
            "_distance",
        ]
        assert list(next(iter(numbers.loader(["id", "id"], output="numpy")))) == ["id"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.int8(), pa.uint8()])
def test_vectors_of_every_searchable_type_are_searched(lake: cenote.Lake, kind: pa.DataType) -> None:
    table = lake.create_table(
        "t", {"id": int, "v": pa.list_(kind, 2), "other": pa.list_(pa.int32(), 2)}, primary_key="id"
    )
    vectors = pa.array([[k, 0] for k in range(4)], pa.list_(pa.float32(), 2))
    table.upsert(pa.table({"id": range(4), "v": vectors}))
    assert [row["id"] for row in table.search(vector=[3, 0], k=1)] == [3]
    assert [row["id"] for row in table.search(vector=[3, 0], column="v", k=1)] == [3]
    with pytest.raises(NotFoundError, match="no vector column `other`; there are v"):
        table.search(vector=[3, 0], column="other")


def test_queries_take_parameters_of_every_kind(lake: cenote.Lake, numbers: cenote.Table) -> None:
    from datetime import datetime

    time = datetime(2026, 1, 31, 12, 30, 1, 5)
    row = lake.sql(
        "SELECT $1 a, $2 b, $3 c, $4 d, $5 e, $6 f, $1 g", "x'; --", 2**60, 0.1, True, None, time
    ).to_pylist()
    assert row == [{"a": "x'; --", "b": 2**60, "c": 0.1, "d": True, "e": None, "f": time, "g": "x'; --"}]
    near = lake.sql("SELECT id FROM vector_search('numbers', 'at', $1, $2)", numpy.array([7, -7], "float32"), 1)
    assert near.to_pylist() == [{"id": 7}]
    for query, parameters, says in [
        ("SELECT $2", [1], r"placeholder \$2"),
        ("SELECT 1", [1], "parameter 1"),
        ("SELECT $1", [object()], "object"),
    ]:
        with pytest.raises(InvalidInputError, match=says):
            lake.sql(query, *parameters)


def test_notebooks_show_rows_as_a_table_with_pictures(lake: cenote.Lake) -> None:
    png = b"\x89PNG and so on"
    table = lake.create_table("t", {"id": int, "word": str, "picture": cenote.Image}, primary_key="id")
    table.upsert([{"id": id, "word": "<b>&" * id, "picture": png if id == 1 else bytes(id)} for id in range(30)])
    shown = table.read(where="id < 3", columns=["id", "word", "picture"])._repr_html_()
    assert shown.count("<tr>") == 4 and shown.count("<th>") == 3
    assert shown.count('<img style="max-height: 8em" src="data:image/png;base64,iVBORyBhbmQgc28gb24=">') == 1
    assert "&lt;b&gt;&amp;" in shown and "<b>" not in shown and "2 bytes" in shown
    whole = table.read()._repr_html_()
    assert whole.count("<tr>") == 21 and "30 rows, of which 20 are shown" in whole


def test_errors_have_classes_of_their_own(lake: cenote.Lake, numbers: cenote.Table, tmp_path) -> None:
    with pytest.raises(NotFoundError, match="no table `nowhere`; there are numbers"):
        lake.table("nowhere")
    with pytest.raises(LookupError):
        numbers.read(["nothing"])
    with pytest.raises(cenote.errors.AlreadyExistsError):
        lake.create_table("numbers", {"id": int}, primary_key="id")
    with pytest.raises(cenote.errors.UnsupportedError, match=r"use `cenote delete TABLE KEY…` or `table\.delete\(…\)`"):
        lake.sql("DELETE FROM numbers")
    with pytest.raises(InvalidInputError, match="cpus must be from 0.001 to 4096, found 0"):
        cenote.open(lake.location, cpus=0)
    with pytest.raises(NotFoundError, match="is not a lake"):
        cenote.open(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match="not a column type|unknown type"):
        lake.create_table("t", {"id": "integer"}, primary_key="id")
    other = cenote.open(tmp_path / "other", create=True)
    other.close()
    with pytest.raises(InvalidInputError, match="is closed"):
        other.tables()
