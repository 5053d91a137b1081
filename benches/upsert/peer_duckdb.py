"""DuckDB, by INSERT OR REPLACE into a file with a primary key: `peer_duckdb.py ROWS CALLS LARGE_CALLS DIRECTORY`."""

import sys

import duckdb
import work

database = duckdb.connect(f"{sys.argv[4]}/vectors.duckdb")
database.execute(f"CREATE TABLE vectors (id BIGINT PRIMARY KEY, vector FLOAT[{work.DIMENSIONS}], payload BIGINT)")


def load(rows) -> None:
    database.execute("INSERT INTO vectors SELECT * FROM rows")


def upsert(rows) -> None:
    database.execute("INSERT OR REPLACE INTO vectors SELECT * FROM rows")


def lookup(key: int) -> int:
    return database.execute("SELECT * FROM vectors WHERE id = ?", [key]).to_arrow_table().num_rows


work.run(load, upsert, lookup, lambda: database.execute("SELECT count(*) FROM vectors").fetchone()[0])
