"""The work of every peer of `make bench-lookup`: load, look up, upsert a little, look up again, print the times.

Arguments: `ROWS GETS TAKES UPSERTS KEYS DIRECTORY`. `run.py` documents the file KEYS.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import numpy
import pyarrow

NUMBERS = 8
CALL_ROWS = 100
LOAD_ROWS = 1_000_000
DIRECTORY = sys.argv[6]


def batch(ids: numpy.ndarray, payload: numpy.ndarray) -> pyarrow.Table:
    numbers = (ids[:, None] * NUMBERS + numpy.arange(NUMBERS)) * 2_654_435_761 & 0xFFFF_FFFF
    values = pyarrow.array((numbers / 2**32).astype(numpy.float32).ravel())
    lists = pyarrow.FixedSizeListArray.from_arrays(values, NUMBERS)
    return pyarrow.table({"id": ids, "numbers": lists, "payload": payload})


def loaded(rows: int) -> Iterator[pyarrow.Table]:
    for first in range(0, rows, LOAD_ROWS):
        ids = numpy.arange(first, min(first + LOAD_ROWS, rows), dtype=numpy.int64)
        yield batch(ids, ids)


def run(
    load: Callable[[Iterable[pyarrow.Table]], None],
    upsert: Callable[[pyarrow.Table], None],
    get: Callable[[int], pyarrow.Table | list[tuple]],
    take: Callable[[list[int]], pyarrow.Table | list[tuple]],
) -> None:
    """Measures and prints one JSON line. `get` returns the row with a key, `take` 100 rows, as Arrow or as a list."""
    rows, gets, takes, upserts = (int(argument) for argument in sys.argv[1:5])
    keys = iter(numpy.fromfile(sys.argv[5], numpy.int64).tolist())
    load(loaded(rows))
    report: dict[str, object] = {"found": 0, "payload_sum": 0}

    def look_up(when: str) -> None:
        times_ms = []
        for _ in range(gets):
            key = next(keys)
            start_s = time.perf_counter()
            found = get(key)
            times_ms.append((time.perf_counter() - start_s) * 1e3)
            report["found"] += len(found)
            payloads = found["payload"].to_pylist() if isinstance(found, pyarrow.Table) else [row[2] for row in found]
            report["payload_sum"] += sum(payloads)
        report[f"get_{when}_ms"] = times_ms
        times_ms = []
        for _ in range(takes):
            chosen = [next(keys) for _ in range(CALL_ROWS)]
            start_s = time.perf_counter()
            found = take(chosen)
            times_ms.append((time.perf_counter() - start_s) * 1e3)
            report["found"] += len(found)
        report[f"take_{when}_ms"] = times_ms

    look_up("loaded")
    for call in range(1, upserts + 1):
        ids = numpy.array([next(keys) for _ in range(CALL_ROWS)], numpy.int64)
        upsert(batch(ids, numpy.full(CALL_ROWS, -call)))
    look_up("upserted")
    print(json.dumps(report), flush=True)
