"""The work of the peer of `bench-fresh` and `bench-filter` apart from its library's calls.

Arguments: those of `bench_lake search` after KIND, and the structure of the vector index.
"""

import json
import sys
import time

import numpy
import pyarrow

ROWS, QUERIES, DIMENSIONS = (int(argument) for argument in sys.argv[1:4])
DIRECTORY = f"{sys.argv[5]}/table"
BASE = numpy.fromfile(sys.argv[4], "<f4").reshape(-1, DIMENSIONS)
NEAREST = 10
STRUCTURE = sys.argv[6]
# Either few partitions with a graph in each, of which 20 are searched, or many partitions, of which the number is
# searched that Cenote searches without a filter.
PARTITIONS = max(1, int(ROWS**0.5) // 8) if "HNSW" in STRUCTURE else 2 * int(ROWS**0.5)
PROBES = 20 if "HNSW" in STRUCTURE else 3 * int(PARTITIONS**0.5)
chance = numpy.random.default_rng(1)
ids = numpy.arange(ROWS)
current = BASE[ids % len(BASE)].copy()
report = {}


def batch(ids: numpy.ndarray, vectors: numpy.ndarray) -> pyarrow.Table:
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel(), pyarrow.float32()), DIMENSIONS)
    return pyarrow.table({"id": pyarrow.array(ids, pyarrow.int64()), "color": ids % 1000, "vector": values})


def change(count: int) -> pyarrow.Table:
    """Returns some existing rows with new vectors."""
    chosen = numpy.unique(chance.integers(0, ROWS, count))
    current[chosen] = BASE[chance.integers(0, len(BASE), len(chosen))][:, ::-1]
    return batch(chosen, current[chosen])


def search(name: str, ask, below: int | None = None) -> None:
    """Measures searches by `ask(vector, filter)`, which returns the ids of the nearest rows."""
    times, queries, answers = [], [], []
    for _ in range(QUERIES):
        query = current[chance.integers(0, ROWS)] + chance.uniform(-0.01, 0.01, DIMENSIONS).astype("f4")
        start = time.perf_counter()
        answers.append(ask(query, None if below is None else f"color < {below}"))
        times.append(time.perf_counter() - start)
        queries.append(query)
    fits = ids if below is None else ids[ids % 1000 < below]
    rows = current[fits]
    count = min(NEAREST, len(fits))
    # A product of matrices, which rounds, finds candidates; the nearest of those are compared one by one.
    rough = (rows**2).sum(axis=1) - 2 * numpy.array(queries) @ rows.T
    near = numpy.argpartition(rough, min(5 * NEAREST, len(fits) - 1), axis=1)[:, : 5 * NEAREST]
    found, short = 0, 0
    for query, near, got in zip(queries, near, answers):
        last = numpy.sort(((rows[near] - query) ** 2).sum(axis=1))[count - 1]
        own = ((current[numpy.array(got, dtype=int)] - query) ** 2).sum(axis=1)
        found += min(count, int((own <= last * (1 + 1e-6) + 1e-6).sum()))
        short += count - len(got)
    wanted = count * QUERIES
    report[name] = {"qps": QUERIES / sum(times), "recall": found / wanted, "short": short}


def timed(name: str, work) -> None:
    start = time.perf_counter()
    work()
    report[name] = time.perf_counter() - start


def finish() -> None:
    print(json.dumps(report))
