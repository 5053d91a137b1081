"""LanceDB's full-text index, with English stems, without stop words. Arguments: `work.py`."""

import lancedb
import pyarrow
import work


def batch(ids, texts) -> pyarrow.Table:
    return pyarrow.table({"id": pyarrow.array(ids, pyarrow.int64()), "text": pyarrow.array(texts, pyarrow.string())})


database = lancedb.connect(str(work.DIRECTORY))
table = database.create_table("pages", batch(range(len(work.TEXTS)), work.TEXTS))


def build() -> None:
    table.create_fts_index("text", with_position=True, language="English", stem=True, remove_stop_words=True)
    table.wait_for_index(["text_idx"])


def change() -> None:
    rows = batch(work.changed, work.new)
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    table.delete(f"id IN ({', '.join(map(str, work.deleted))})")


def ask(text: str) -> list[int]:
    best = table.search(text, query_type="fts").limit(work.NEAREST).select(["id", "_score"])
    return best.to_arrow()["id"].to_pylist()


indexes = work.DIRECTORY / "pages.lance" / "_indices"
work.run(build, change, ask, lambda: work.bytes_under(indexes))
