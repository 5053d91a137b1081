"""DuckDB, by its primary key, in a file. Arguments: `work.py`."""

import duckdb
import work

database = duckdb.connect(f"{work.DIRECTORY}/rows.duckdb")
database.execute(f"CREATE TABLE stored (id BIGINT PRIMARY KEY, numbers FLOAT[{work.NUMBERS}], payload BIGINT)")
MARKS = ", ".join("?" * work.CALL_ROWS)


def load(parts) -> None:
    for rows in parts:
        database.execute("INSERT INTO stored SELECT * FROM rows")
    database.execute("CHECKPOINT")


def upsert(rows) -> None:
    database.execute("INSERT OR REPLACE INTO stored SELECT * FROM rows")


def get(key: int) -> list[tuple]:
    return database.execute("SELECT * FROM stored WHERE id = ?", [key]).fetchall()


def take(keys: list[int]) -> list[tuple]:
    return database.execute(f"SELECT * FROM stored WHERE id IN ({MARKS})", keys).fetchall()


work.run(load, upsert, get, take)
