"""Lance itself, with a BTree on the key and an index on the vectors. Arguments: `work.py`."""

import lance
import work

table = lance.write_dataset(work.batch(work.ids, work.current), work.DIRECTORY, enable_stable_row_ids=True)
table.create_scalar_index("id", "BTREE")
build = lambda: table.create_index("vector", work.STRUCTURE, num_partitions=work.PARTITIONS, metric="l2")
work.timed("build_s", build)


def ask(vector, filter):
    nearest = {"column": "vector", "q": vector, "k": work.NEAREST, "nprobes": work.PROBES, "refine_factor": 4}
    return table.to_table(columns=["id"], nearest=nearest, filter=filter, prefilter=True)["id"].to_pylist()


def upsert(rows) -> None:
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def both(name: str) -> None:
    """Searches at once, and once more."""
    work.search(name, ask)
    work.search(f"later {name}", ask)


work.search("warm", ask)
work.search("before", ask)
for _ in range(60):
    upsert(work.change(100))
both("upserted")
both("folded")
upsert(work.change(work.ROWS * 3 // 100))
both("changed")
work.timed("upkeep_s", table.optimize.optimize_indices)
both("tended")
work.finish()
