"""The work of every peer of `make bench-ann`: build, search on one thread with ever wider walks, print a JSON object.

Arguments: `DIMENSION METRIC BASE QUERIES TRUTH THREADS`. Searches are timed by the processor time of the process, which
does nothing else meanwhile.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy

NEAREST = 10
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
PASSES = 5
# The recall after which no wider walk is tried.
ENOUGH = 0.999
DIMENSION, THREADS = int(sys.argv[1]), int(sys.argv[6])
# The graph that every library builds.
LINKS, WIDTH_BUILD = 16, 150
BASE = numpy.fromfile(sys.argv[3], "<f4").reshape(-1, DIMENSION)
QUERIES = numpy.fromfile(sys.argv[4], "<f4").reshape(-1, DIMENSION)
TRUTH = numpy.fromfile(sys.argv[5], "<u4").reshape(-1, NEAREST)


def run(build: Callable[[], None], search: Callable[[int], numpy.ndarray], memory_bytes: Callable[[], int]) -> None:
    """Measures and prints one JSON object. `search(ef)` returns the labels nearest to every query."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    build()
    build_s, build_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    points = []
    for ef in WIDTHS:
        best_s = float("inf")
        for _ in range(PASSES):
            start_s = time.process_time()
            found = search(ef)
            best_s = min(best_s, time.process_time() - start_s)
        right = sum(len(set(row) & set(truth)) for row, truth in zip(found.tolist(), TRUTH.tolist()))
        points.append({"ef": ef, "recall": right / TRUTH.size, "qps": len(QUERIES) / best_s})
        if right >= ENOUGH * TRUTH.size:
            break
    report = {"build_s": build_s, "build_cpu_s": build_cpu_s, "memory_bytes": memory_bytes(), "points": points}
    print(json.dumps(report))
