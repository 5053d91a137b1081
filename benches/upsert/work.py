"""The work of every peer of `make bench-upsert`: load, upsert in calls of three sizes, look keys up, print times."""

import json
import sys
import time
from collections.abc import Callable

import numpy
import pyarrow

DIMENSIONS = 128
LOOKUPS = 2000
STRIDE = 7919


def batch(ids: numpy.ndarray) -> pyarrow.Table:
    numbers = (ids[:, None] * 31 + numpy.arange(DIMENSIONS)[None, :] * 17) % 1000
    values = pyarrow.array(numbers.astype(numpy.float32).ravel())
    vectors = pyarrow.FixedSizeListArray.from_arrays(values, DIMENSIONS)
    return pyarrow.table({"id": ids, "vector": vectors, "payload": ids})


def percentile(times_ms: list[float], share: float) -> float:
    return sorted(times_ms)[round((len(times_ms) - 1) * share)]


def run(
    load: Callable[[pyarrow.Table], None],
    upsert: Callable[[pyarrow.Table], None],
    lookup: Callable[[int], int],
    count: Callable[[], int],
) -> None:
    """Measures and prints one JSON line. `lookup` returns the number of rows with a key, 0 or 1."""
    rows, small_calls, large_calls = (int(argument) for argument in sys.argv[1:4])
    load(batch(numpy.arange(rows, dtype=numpy.int64)))
    report: dict[str, float] = {}
    start = 0
    for size, calls in ((1, small_calls), (100, small_calls), (10_000, large_calls)):
        times_ms = []
        for _ in range(calls):
            one = batch(numpy.arange(start, start + size, dtype=numpy.int64) * STRIDE % (2 * rows))
            start += size
            began = time.perf_counter()
            upsert(one)
            times_ms.append((time.perf_counter() - began) * 1e3)
        tenth = -(-calls // 10)
        report[f"first_{size}_ms"] = percentile(times_ms[:tenth], 0.5)
        report[f"last_{size}_ms"] = percentile(times_ms[-tenth:], 0.5)
        report[f"p50_{size}_ms"] = percentile(times_ms, 0.5)
        report[f"p99_{size}_ms"] = percentile(times_ms, 0.99)
        report[f"rows_s_{size}"] = size * calls / sum(times_ms) * 1e3
    times_ms = []
    for number in range(LOOKUPS):
        key = number * STRIDE % rows
        began = time.perf_counter()
        found = lookup(key)
        times_ms.append((time.perf_counter() - began) * 1e3)
        assert found == 1, (key, found)
    report["lookup_ms"] = report["lookup_changed_ms"] = percentile(times_ms, 0.5)
    report["count"] = count()
    print(json.dumps(report), flush=True)
