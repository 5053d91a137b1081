"""Tantivy's Python package, with English stems. Writes are found after a commit and a reload. Arguments: `work.py`."""

import tantivy
import work

builder = tantivy.SchemaBuilder()
builder.add_integer_field("id", stored=True, indexed=True, fast=True)
builder.add_text_field("text", stored=False, tokenizer_name="en_stem")
path = work.DIRECTORY / "index"
path.mkdir()
index = tantivy.Index(builder.build(), path=str(path))


def add(ids, texts) -> None:
    writer = index.writer(heap_size=256_000_000)
    for id, text in zip(ids, texts):
        writer.add_document(tantivy.Document(id=id, text=text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()


def change() -> None:
    writer = index.writer(heap_size=256_000_000)
    for id in [*work.changed, *work.deleted]:
        writer.delete_documents_by_term("id", id)
    for id, text in zip(work.changed, work.new):
        writer.add_document(tantivy.Document(id=id, text=text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()


def ask(text: str) -> list[int]:
    searcher = index.searcher()
    hits = searcher.search(index.parse_query(text, ["text"]), work.NEAREST, count=False).hits
    return [searcher.doc(address)["id"][0] for _, address in hits]


work.run(lambda: add(range(len(work.TEXTS)), work.TEXTS), change, ask, lambda: work.bytes_under(path))
