"""Single values: Python's equal those of pyarrow, and come back unchanged or are refused."""

from __future__ import annotations

import datetime
import io
import math
import uuid
from datetime import date, time, timedelta, timezone
from decimal import Decimal

import numpy
import pandas
import pyarrow as pa
import pytest

import cenote
from cenote import _native
from cenote.errors import InvalidInputError

NOON = datetime.datetime(2026, 1, 31, 12, 30, 1, 5)
UTC_NOON = NOON.replace(tzinfo=timezone.utc)
UUID = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")

STORED: dict[str, tuple[pa.DataType, list]] = {
    "bool": (pa.bool_(), [True, False]),
    "int8": (pa.int8(), [-128, 127]),
    "uint8": (pa.uint8(), [0, 255]),
    "int64": (pa.int64(), [-(2**63), 2**63 - 1]),
    "uint64": (pa.uint64(), [0, 2**64 - 1]),
    "float16": (pa.float16(), [0.5, float("-inf")]),
    "float32": (pa.float32(), [0.5, 1e-40]),
    "float64": (pa.float64(), [0.1, 2.0**53]),
    "string": (pa.string(), ["", "ü"]),
    "large_string": (pa.large_string(), ["", "ü"]),
    "binary": (pa.binary(), [b"", b"\x00\xff"]),
    "large_binary": (pa.large_binary(), [b"", b"\x00\xff"]),
    "fixed": (pa.binary(3), [b"abc", b"\x00\x01\x02"]),
    "decimal": (pa.decimal128(38, 10), [Decimal("1.5"), Decimal("-9999999999999999999999999999.9999999999")]),
    "whole": (pa.decimal128(5, 0), [Decimal("0"), Decimal("99999")]),
    "decimal256": (pa.decimal256(70, 2), [Decimal("-0.01"), Decimal(10**67) + Decimal("0.25")]),
    "date32": (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    "date64": (pa.date64(), [date(1969, 12, 31), date(2026, 1, 31)]),
    "time_s": (pa.time32("s"), [time(0), time(23, 59, 59)]),
    "time_ms": (pa.time32("ms"), [time(0), time(23, 59, 59, 999_000)]),
    "time_us": (pa.time64("us"), [time(0), time(23, 59, 59, 999_999)]),
    "time_ns": (pa.time64("ns"), [time(0), time(23, 59, 59, 999_999)]),
    "at_s": (pa.timestamp("s"), [NOON.replace(microsecond=0), datetime.datetime(1, 1, 1)]),
    "at_ms": (pa.timestamp("ms"), [NOON.replace(microsecond=0), datetime.datetime(1969, 12, 31, 23, 59, 59, 999_000)]),
    "at_us": (pa.timestamp("us"), [NOON, datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999)]),
    "at_ns": (pa.timestamp("ns"), [NOON, pandas.Timestamp("1969-12-31 23:59:59.999999999")]),
    "utc": (pa.timestamp("us", "UTC"), [UTC_NOON, UTC_NOON.astimezone(timezone(timedelta(hours=-3)))]),
    "berlin": (pa.timestamp("us", "Europe/Berlin"), [UTC_NOON, UTC_NOON + timedelta(days=150)]),
    "offset": (pa.timestamp("ms", "-03:30"), [UTC_NOON.replace(microsecond=0), UTC_NOON.replace(microsecond=1000)]),
    "utc_ns": (pa.timestamp("ns", "UTC"), [UTC_NOON, pandas.Timestamp(1, unit="ns", tz="UTC")]),
    "lasts_s": (pa.duration("s"), [timedelta(seconds=-1), timedelta(days=999_999_999)]),
    "lasts_us": (pa.duration("us"), [timedelta(microseconds=-1), timedelta(days=5, microseconds=7)]),
    "lasts_ns": (pa.duration("ns"), [timedelta(microseconds=-1), pandas.Timedelta(7, unit="ns")]),
    "vector": (pa.list_(pa.float32(), 2), [[0.5, -1.0], [2.0**24, 1e-40]]),
    "words": (pa.list_(pa.string()), [["a", None], []]),
    "large_list": (pa.large_list(pa.decimal128(9, 2)), [[Decimal("1.25"), None], []]),
    "nested": (pa.list_(pa.list_(pa.date32())), [[[date(2026, 1, 31)], None], [[]]]),
    "struct": (
        pa.struct([("price", pa.decimal128(9, 2)), ("days", pa.list_(pa.date32())), ("at", pa.timestamp("us", "UTC"))]),
        [
            {"price": Decimal("1.25"), "days": [date(2026, 1, 31)], "at": UTC_NOON},
            {"price": None, "days": None, "at": None},
        ],
    ),
}
"""Types with values at their limits; the tests add a null between them."""

OTHERS: list[pa.Array] = [
    pa.nulls(3),
    pa.array([UUID, None, uuid.UUID(int=0)], pa.uuid()),
    pa.array(["a", None, "b"], pa.string_view()),
    pa.array([b"a", None, b"b"], pa.binary_view()),
    pa.array([Decimal("1.5"), None, Decimal("-1.5")], pa.decimal32(5, 2)),
    pa.array([Decimal("1.5"), None, Decimal("-1.5")], pa.decimal64(15, 2)),
    pa.array([Decimal("1500"), None, Decimal("-100")], pa.decimal128(5, -2)),
    pa.array(["a", None, "b"], pa.dictionary(pa.int8(), pa.string())),
    pa.array([Decimal("1.5"), None, Decimal("1.5")], pa.decimal128(5, 2)).dictionary_encode(),
    pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array([date(2026, 1, 31), None])),
    pa.array([[1, None], None, []], pa.list_view(pa.int8())),
    pa.array([[Decimal("1.5")], None, [None]], pa.list_(pa.decimal128(5, 2), 1)),
    pa.array([[("a", Decimal("1.5")), ("b", None)], None, []], pa.map_(pa.string(), pa.decimal128(5, 2))),
    pa.array([(1, 2, 3), None, (-1, 0, 0)], pa.month_day_nano_interval()),
    pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0], pa.int8())),
    pa.array(["{}", None, "[]"], pa.json_()),
]


def with_null(values: list) -> list:
    return [values[0], None, *values[1:]]


def rows_of(table: pa.Table) -> cenote.Rows:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return cenote.Rows(_native.unpickle_rows(out.getvalue()))


@pytest.mark.parametrize(
    "array",
    [*(pa.array(with_null(values), kind) for kind, values in STORED.values()), *OTHERS],
    ids=lambda array: str(array.type),
)
def test_every_type_has_the_values_that_pyarrow_gives_it(array: pa.Array) -> None:
    table = pa.table({"column": array})
    for part in (table, table.slice(1), table.slice(0, 0), pa.concat_tables([table, table.slice(1, 1)])):
        rows = rows_of(part)
        expected = part.to_pylist()
        assert rows.to_pylist() == expected
        assert [type(row["column"]) for row in rows] == [type(row["column"]) for row in expected]
        column = rows["column"]
        assert column.to_pylist() == [column[row] for row in range(len(column))] == [row["column"] for row in expected]


def test_a_zone_keeps_its_distance() -> None:
    rows = rows_of(pa.table({"at": pa.array([UTC_NOON], pa.timestamp("us", "Europe/Berlin"))})).to_pylist()
    assert rows[0]["at"].utcoffset() == timedelta(hours=1)


def test_rows_come_back_as_they_were_through_every_door(lake: cenote.Lake) -> None:
    schema = pa.schema(
        [pa.field("id", pa.int64(), nullable=False), *(pa.field(name, kind) for name, (kind, _) in STORED.items())]
    )
    table = lake.create_table("t", schema, primary_key="id")
    rows = [{"id": 0} | {name: values[0] for name, (_, values) in STORED.items()}]
    rows += [{"id": 1} | dict.fromkeys(STORED)]
    rows += [{"id": 2} | {name: values[1] for name, (_, values) in STORED.items()}]
    assert table.upsert(rows)["inserted"] == 3
    # Arrow has converted them to the same values.
    assert table.to_arrow().sort_by("id").equals(pa.Table.from_pylist(rows, schema))
    expected = table.to_arrow().sort_by("id").to_pylist()
    assert table.upsert({name: [row[name] for row in expected] for name in schema.names})["updated"] == 3
    doors = [
        table.read().to_pylist(),
        table.scan().to_pylist(),
        [row for batch in table.scan().batches() for row in batch],
        [table.get(id) for id in range(3)],
        lake.sql("SELECT * FROM t").to_pylist(),
        [row["after"] for write in table.changes() for row in write if row["operation"] == "insert"],
    ]
    for door in doors:
        assert sorted(door, key=lambda row: row["id"]) == expected


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (pa.int8(), 128, "Int8, and row 1 has 128"),
        (pa.int64(), 1.0, "has 1.0"),
        (pa.int64(), True, "has True"),
        (pa.int64(), Decimal(1), "has Decimal"),
        (pa.int64(), "1", "has '1'"),
        (pa.float64(), 2**53 + 1, "9007199254740992 is not the same number"),
        (pa.float64(), Decimal("0.1"), "not the same number"),
        (pa.float32(), 2**24 + 1, "16777216 is not the same number"),
        (pa.float32(), 1e300, "out of range"),
        (pa.list_(pa.float32(), 1), [1e300], "out of range"),
        (pa.list_(pa.float32(), 1), [2**24 + 1], "not the same number"),
        (pa.list_(pa.float32(), 1), [1, 2], "vectors of 1 numbers, and row 1 has 2"),
        (pa.decimal128(5, 2), Decimal("1.234"), "does not fit 5 digits, 2 of them behind the point"),
        (pa.decimal128(5, 2), Decimal("1000"), "does not fit"),
        (pa.decimal128(5, 2), Decimal("NaN"), "not a number"),
        (pa.decimal128(5, 2), 0.5, "neither a Decimal nor an int"),
        (pa.date32(), NOON, "not a date"),
        (pa.timestamp("us"), date(2026, 1, 31), "not a datetime"),
        (pa.timestamp("us"), UTC_NOON, "it has a time zone, and the column has none"),
        (pa.timestamp("s"), NOON, "finer than the column's unit"),
        (pa.timestamp("us"), pandas.Timestamp(1, unit="ns"), "finer than the column's unit"),
        (pa.timestamp("ns"), datetime.datetime(9999, 1, 1), "out of range"),
        (pa.time32("s"), time(0, 0, 0, 1), "finer"),
        (pa.time64("us"), time(0, tzinfo=timezone.utc), "it has a time zone"),
        (pa.duration("ms"), timedelta(microseconds=1), "finer"),
        (pa.binary(3), b"ab", "it has 2 bytes"),
        (pa.string(), b"a", "has b'a'"),
        (pa.list_(pa.string()), "ab", "has 'ab'"),
        (pa.list_(pa.int8()), {1: 2}, "has {1: 2}"),
        (pa.list_(pa.int8()), [1, 300], r"row 1 has \[1, 300\]"),
        (pa.list_(pa.struct([("a", pa.int8())])), [{"a": 1}, {"a": 300}], "row 1 has"),
        (pa.struct([("a", pa.int8())]), {"a": 1, "b": 2}, "there is no field `b`"),
        (pa.struct([("a", pa.int8())]), [1], r"has \[1\]"),
    ],
)
def test_what_a_column_would_change_is_refused_with_its_row(
    lake: cenote.Lake, kind: pa.DataType, value, says: str
) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("value", kind)])
    table = lake.create_table("t", schema, primary_key="id")
    with pytest.raises(InvalidInputError, match=says):
        table.upsert({"id": [0, 1], "value": [None, value]})
    assert len(table) == 0


def test_keys_are_values_of_their_columns(lake: cenote.Lake) -> None:
    kinds = [pa.int64(), pa.binary(), pa.timestamp("s"), pa.binary(16), pa.date32()]
    values = [1, b"'\xff", NOON.replace(microsecond=0), UUID, date(2026, 1, 31)]
    for number, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        schema = pa.schema([pa.field("key", kind, nullable=False)])
        table = lake.create_table(f"t{number}", schema, primary_key="key")
        table.upsert([{"key": value}])
        assert table.get(value) == {"key": getattr(value, "bytes", value)}
        assert table.delete([value])["deleted"] == 1
    times = lake["t2"]
    times.upsert([{"key": NOON.replace(microsecond=0)}])
    # A key that nearly equals another is not that key.
    with pytest.raises(InvalidInputError, match="finer than the column's unit"):
        times.delete([NOON])
    with pytest.raises(InvalidInputError, match="has 1.9"):
        lake["t0"].delete([1.9])
    with pytest.raises(InvalidInputError, match=r"a key has 1 values \(key\), found None"):
        times.get(None)
    assert len(times) == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.bool_(), True),
        (pa.int8(), numpy.int8(-3)),
        (pa.uint64(), 2**64 - 1),
        (pa.decimal128(38, 0), 2**64 + 1),
        (pa.decimal128(5, 2), Decimal("0.10")),
        (pa.decimal256(60, 0), 10**50),
        (pa.float32(), numpy.float32(0.1)),
        (pa.float64(), 0.1),
        (pa.float64(), math.inf),
        (pa.float64(), math.nan),
        (pa.string(), "it's"),
        (pa.binary(), b"\0\xff"),
        (pa.binary(16), UUID),
        (pa.date32(), date(9999, 12, 31)),
        (pa.time64("us"), time(23, 59, 59, 999999)),
        (pa.duration("us"), timedelta(days=-1, microseconds=3)),
        (pa.timestamp("us"), datetime.datetime(9999, 12, 31, 1, 2, 3, 4)),
        (pa.timestamp("s"), datetime.datetime(1600, 1, 1)),
        (pa.timestamp("ns"), pandas.Timestamp(1001, unit="ns")),
        (pa.timestamp("us", "America/New_York"), UTC_NOON),
        (pa.timestamp("us", "+05:30"), UTC_NOON.astimezone(timezone(timedelta(hours=-3)))),
        (pa.list_(pa.int64()), [1, None, 3]),
        (pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 1, "b": None}),
    ],
)
def test_a_parameter_is_the_value_that_a_row_has(lake: cenote.Lake, kind: pa.DataType, value) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("value", kind)])
    table = lake.create_table("t", schema, primary_key="id")
    table.upsert({"id": [0, 1], "value": [None, value]})
    assert lake.sql("SELECT id FROM t WHERE value = $1", value).to_pylist() == [{"id": 1}]
    assert lake.sql("SELECT $1 = value AS same FROM t WHERE id = 1", value).to_pylist() == [{"same": True}]
    given, stored = lake.sql("SELECT $1 AS given, value FROM t WHERE id = 1", value).to_pylist()[0].values()
    assert given == stored or given != given and stored != stored or given == getattr(value, "bytes", value)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "+05:30"])
def test_a_time_with_a_zone_is_the_same_instant_in_a_statement(lake: cenote.Lake, zone: str) -> None:
    schema = pa.schema([pa.field("at", pa.timestamp("us", zone), nullable=False)])
    lake.create_table("t", schema, primary_key="at").upsert({"at": [UTC_NOON, UTC_NOON + timedelta(hours=1)]})
    here = lake.sql("SELECT min(at) AS at FROM t").to_pylist()[0]["at"]
    for query in ("at = $1", "at <= $1", f"at = TIMESTAMP '{UTC_NOON}'", f"at = CAST('{here}' AS TIMESTAMP)"):
        parameters = [here] if "$1" in query else []
        found = lake.sql(f"SELECT at FROM t WHERE {query}", *parameters).to_pylist()
        assert found == [{"at": UTC_NOON}], query


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (10**80, r"parameter \$2 is 1000*, of type int: "),
        ([1, "a"], r"parameter \$2 is \[1, 'a'\], of type list: "),
        ([-1, 2**64 - 1], r"parameter \$2 is \[-1, "),
        ([0.5, 2**53 + 1], "is not the same number"),
        (object(), "of type object: give None, a bool"),
    ],
)
def test_a_parameter_that_a_query_would_change_is_refused(lake: cenote.Lake, value, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        lake.sql("SELECT $1, $2", 1, value)
