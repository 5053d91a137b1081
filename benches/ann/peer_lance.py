"""Lance on disk, timed by the clock because it has threads.

Arguments: those of `work.py`, an empty directory, and the structure.
"""

import json
import sys
import time
from pathlib import Path

import lance
import numpy
import pyarrow
import work

# Partitions searched, and the refine factor.
WIDTHS = {
    "IVF_HNSW_SQ": ((2, 2), (4, 2), (4, 5), (8, 5), (16, 5), (32, 10), (64, 20)),
    "IVF_SQ": ((4, 2), (8, 2), (16, 2), (32, 2), (64, 2), (128, 2), (256, 5), (512, 5)),
}
STRUCTURE = sys.argv[8]
directory = f"{sys.argv[7]}/table"
values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(work.BASE.ravel(), pyarrow.float32()), work.DIMENSION)
table = lance.write_dataset(pyarrow.table({"id": numpy.arange(len(work.BASE)), "vector": values}), directory)
start_s, start_cpu_s = time.perf_counter(), time.process_time()
root = int(len(work.BASE) ** 0.5)
graph = {"m": work.LINKS, "ef_construction": work.WIDTH_BUILD} if "HNSW" in STRUCTURE else {}
partitions = max(1, root // 8) if graph else 2 * root
table.create_index("vector", STRUCTURE, num_partitions=partitions, metric="l2", **graph)
build_s, build_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
points = []
for place, (probes, refine) in enumerate(WIDTHS[STRUCTURE]):
    best_s, right = float("inf"), 0
    for _ in range(2):
        start_s, right = time.perf_counter(), 0
        found = []
        for query in work.QUERIES:
            nearest = {"column": "vector", "q": query, "k": work.NEAREST, "nprobes": probes, "refine_factor": refine}
            found.append(table.to_table(columns=["id"], nearest=nearest)["id"].to_pylist())
        best_s = min(best_s, time.perf_counter() - start_s)
        right = sum(len(set(row) & set(truth)) for row, truth in zip(found, work.TRUTH.tolist()))
    recall = right / work.TRUTH.size
    points.append({"ef": place, "recall": recall, "qps": len(work.QUERIES) / best_s})
    if recall >= work.ENOUGH:
        break
size = sum(file.stat().st_size for file in Path(directory, "_indices").rglob("*") if file.is_file())
print(json.dumps({"build_s": build_s, "build_cpu_s": build_cpu_s, "memory_bytes": size, "points": points}))
