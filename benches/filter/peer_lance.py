"""Lance itself, with a BTree on the filtered column and an index on the vectors. Arguments: `fresh/work.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fresh"))

import lance
import work

table = lance.write_dataset(work.batch(work.ids, work.current), work.DIRECTORY, enable_stable_row_ids=True)
table.create_scalar_index("color", "BTREE")
work.timed("build_s", lambda: table.create_index("vector", work.STRUCTURE, num_partitions=work.PARTITIONS, metric="l2"))


def ask(vector, filter):
    nearest = {"column": "vector", "q": vector, "k": work.NEAREST, "nprobes": work.PROBES, "refine_factor": 4}
    return table.to_table(columns=["id"], nearest=nearest, filter=filter, prefilter=True)["id"].to_pylist()


for name, below in (("warm", 500), ("50%", 500), ("10%", 100), ("1%", 10), ("0.1%", 1)):
    work.search(name, ask, below)
work.finish()
