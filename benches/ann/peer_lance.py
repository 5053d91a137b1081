"""Lance on disk, with IVF_HNSW_SQ. Arguments: those of `work.py`, then an empty directory. Timed by the clock: it has threads."""

import json
import sys
import time
from pathlib import Path

import lance
import numpy
import pyarrow
import work

WIDTHS = ((1, 2), (2, 2), (4, 2), (4, 5), (8, 5), (16, 5), (32, 10), (64, 20))
directory = f"{sys.argv[7]}/table"
values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(work.BASE.ravel(), pyarrow.float32()), work.DIMENSION)
table = lance.write_dataset(pyarrow.table({"id": numpy.arange(len(work.BASE)), "vector": values}), directory)
start_s, start_cpu_s = time.perf_counter(), time.process_time()
partitions = max(1, int(len(work.BASE) ** 0.5) // 8)
table.create_index("vector", "IVF_HNSW_SQ", num_partitions=partitions, metric="l2", m=work.LINKS, ef_construction=work.WIDTH_BUILD)
build_s, build_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
points = []
for place, (probes, refine) in enumerate(WIDTHS):
    best_s, right = float("inf"), 0
    for _ in range(2):
        start_s, right = time.perf_counter(), 0
        found = []
        for query in work.QUERIES:
            nearest = {"column": "vector", "q": query, "k": work.NEAREST, "nprobes": probes, "refine_factor": refine}
            found.append(table.to_table(columns=["id"], nearest=nearest)["id"].to_pylist())
        best_s = min(best_s, time.perf_counter() - start_s)
        right = sum(len(set(row) & set(truth)) for row, truth in zip(found, work.TRUTH.tolist()))
    points.append({"ef": place, "recall": right / work.TRUTH.size, "qps": len(work.QUERIES) / best_s})
size = sum(file.stat().st_size for file in Path(directory, "_indices").rglob("*") if file.is_file())
print(json.dumps({"build_s": build_s, "build_cpu_s": build_cpu_s, "memory_bytes": size, "points": points}))
