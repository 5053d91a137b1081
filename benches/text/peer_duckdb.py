"""DuckDB's extension fts, with English stems. Its index is rebuilt after changes. Arguments: `work.py`."""

import duckdb
import pyarrow
import work

file = work.DIRECTORY / "pages.duckdb"
database = duckdb.connect(str(file))
database.execute("LOAD fts")
pages = pyarrow.table({"id": pyarrow.array(range(len(work.TEXTS)), pyarrow.int64()), "text": work.TEXTS})
database.execute("CREATE TABLE pages AS SELECT * FROM pages")
database.execute("CHECKPOINT")
rows_bytes = work.bytes_under(work.DIRECTORY)


def build() -> None:
    english = "stemmer='english', stopwords='english'"
    database.execute(f"PRAGMA create_fts_index('pages', 'id', 'text', {english}, overwrite=1)")
    database.execute("CHECKPOINT")


def change() -> None:
    rows = pyarrow.table({"id": pyarrow.array(work.changed, pyarrow.int64()), "text": work.new})
    database.execute("UPDATE pages SET text = rows.text FROM rows WHERE pages.id = rows.id")
    database.execute("DELETE FROM pages WHERE id IN (SELECT unnest(?))", [work.deleted])
    build()


def ask(text: str) -> list[int]:
    sql = """SELECT id FROM (SELECT id, fts_main_pages.match_bm25(id, ?) AS score FROM pages)
             WHERE score IS NOT NULL ORDER BY score DESC LIMIT ?"""
    return [id for (id,) in database.execute(sql, [text, work.NEAREST]).fetchall()]


work.run(build, change, ask, lambda: work.bytes_under(work.DIRECTORY) - rows_bytes)
