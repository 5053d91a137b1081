"""DuckDB's own tables. Arguments: `work.py`."""

import duckdb
import pyarrow
import work


def make(rows: pyarrow.RecordBatchReader, directory: str) -> None:
    with duckdb.connect(f"{directory}/numbers.duckdb") as database:
        database.execute("CREATE TABLE numbers AS SELECT * FROM rows")


def to_polars(directory: str):
    database = duckdb.connect(f"{directory}/numbers.duckdb", read_only=True)
    return lambda: database.sql(work.QUERY).pl()


work.run(make, to_polars, lambda directory: {})
