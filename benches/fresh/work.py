"""What the peer of `bench-fresh` and `bench-filter` does between its library's calls. Arguments: those of `bench_search` after KIND."""

import json
import sys
import time

import numpy
import pyarrow

ROWS, QUERIES, DIMENSIONS = (int(argument) for argument in sys.argv[1:4])
DIRECTORY = f"{sys.argv[5]}/table"
BASE = numpy.fromfile(sys.argv[4], "<f4").reshape(-1, DIMENSIONS)
NEAREST = 10
chance = numpy.random.default_rng(1)
ids = numpy.arange(ROWS)
current = BASE[ids % len(BASE)].copy()
report = {}


def batch(ids: numpy.ndarray, vectors: numpy.ndarray) -> pyarrow.Table:
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel(), pyarrow.float32()), DIMENSIONS)
    return pyarrow.table({"id": pyarrow.array(ids, pyarrow.int64()), "color": ids % 1000, "vector": values})


def change(count: int) -> pyarrow.Table:
    """Rows that are there, with new vectors."""
    chosen = numpy.unique(chance.integers(0, ROWS, count))
    current[chosen] = BASE[chance.integers(0, len(BASE), len(chosen))][:, ::-1]
    return batch(chosen, current[chosen])


def search(name: str, ask, below: int | None = None) -> None:
    """`ask(vector, filter)` gives the ids of the nearest."""
    times, found, wanted, short = [], 0, 0, 0
    fits = ids if below is None else ids[ids % 1000 < below]
    for _ in range(QUERIES):
        query = current[chance.integers(0, ROWS)] + chance.uniform(-0.01, 0.01, DIMENSIONS).astype("f4")
        start = time.perf_counter()
        got = ask(query, None if below is None else f"color < {below}")
        times.append(time.perf_counter() - start)
        distances = ((current[fits] - query) ** 2).sum(axis=1)
        last = numpy.partition(distances, NEAREST - 1)[NEAREST - 1] if len(fits) > NEAREST else distances.max()
        own = ((current[numpy.array(got, dtype=int)] - query) ** 2).sum(axis=1)
        count = min(NEAREST, len(fits))
        found += min(count, int((own <= last * (1 + 1e-6) + 1e-6).sum()))
        wanted += count
        short += count - len(got)
    report[name] = {"qps": QUERIES / sum(times), "recall": found / wanted, "short": short}


def timed(name: str, work) -> None:
    start = time.perf_counter()
    work()
    report[name] = time.perf_counter() - start


def finish() -> None:
    print(json.dumps(report))
