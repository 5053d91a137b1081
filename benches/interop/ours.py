"""Cenote. Arguments: `work.py`. Compares addresses of buffers to show that a hand-over copies nothing."""

import cenote
import pandas
import polars
import pyarrow
import work

# Few enough for one batch, so that nobody has to join chunks.
COPIED_ROWS = 1000


def make(rows: pyarrow.RecordBatchReader, directory: str) -> None:
    with cenote.open(directory, create=True) as lake:
        lake.create_table("numbers", rows.schema, primary_key="id").upsert(rows)


def to_polars(directory: str):
    lake = cenote.open(directory)
    return lambda: lake.sql(work.QUERY).to_polars()


def address(array: pyarrow.Array) -> int:
    """Returns the address of the values of an array, its offset included."""
    return array.buffers()[1].address + array.offset * array.type.bit_width // 8


def copied(directory: str) -> dict[str, int]:
    """Counts the columns of numbers that have moved after a hand-over."""
    rows = cenote.open(directory)["numbers"].read(["id", "value"], limit=COPIED_ROWS)
    ours = {name: address(pyarrow.array(rows[name])) for name in rows.columns}
    table = pyarrow.table(rows)
    frame = polars.DataFrame(rows)
    series = table.to_pandas(types_mapper=pandas.ArrowDtype)
    return {
        "copied_pyarrow": sum(address(table[name].chunk(0)) != at for name, at in ours.items()),
        "copied_polars": sum(address(frame[name].to_arrow()) != at for name, at in ours.items()),
        "copied_pandas": sum(address(series[name].array.__arrow_array__().chunk(0)) != at for name, at in ours.items()),
    }


work.run(make, to_polars, copied)
