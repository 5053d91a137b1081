"""LanceDB, by merge_insert on a table with a BTree on the key: `peer_lancedb.py ROWS CALLS LARGE_CALLS DIRECTORY`."""

import sys

import lancedb
import work

database = lancedb.connect(sys.argv[4])
table = None


def load(rows) -> None:
    global table
    table = database.create_table("vectors", rows)
    table.create_scalar_index("id", index_type="BTREE")


def upsert(rows) -> None:
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


work.run(
    load, upsert, lambda key: table.search().where(f"id = {key}").to_arrow().num_rows, lambda: table.count_rows()
)
