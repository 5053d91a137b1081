"""Lance itself, by merge_insert on a table with a BTree on the key.

Arguments: `ROWS CALLS LARGE_CALLS DIRECTORY`.
"""

import sys

import lance
import work

table = None


def load(rows) -> None:
    global table
    table = lance.write_dataset(rows, sys.argv[4], enable_stable_row_ids=True)
    table.create_scalar_index("id", "BTREE")


def upsert(rows) -> None:
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


work.run(load, upsert, lambda key: table.to_table(filter=f"id = {key}").num_rows, lambda: table.count_rows())
