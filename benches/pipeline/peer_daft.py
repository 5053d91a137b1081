"""Daft, its native runner, the model in a class with an instance per core: `peer_daft.py INPUT OUTPUT MODEL`."""

import os
import sys
import time

os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["DAFT_PROGRESS_BAR"] = "0"

import daft
import numpy
from daft import DataType, col

import work

MODEL = sys.argv[3]


@daft.cls(max_concurrency=len(os.sched_getaffinity(0)))
class Embed:
    def __init__(self) -> None:
        self.embedder = work.Embedder(MODEL)

    @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), work.FEATURES), batch_size=work.BATCH_ROWS)
    def embed(self, paths):
        return list(self.embedder.embed(paths.to_pylist()))


def batches(paths: list[str]):
    frame = daft.from_pydict({"path": paths}).select(col("path"), Embed().embed(col("path")).alias("vector"))
    for one in frame.to_arrow_iter():
        vectors = one.column("vector")
        storage = getattr(vectors, "storage", vectors)
        yield work.batch(one.column("path").to_pylist(), numpy.asarray(storage.flatten()).reshape(-1, work.FEATURES))


if __name__ == "__main__":
    start_s = time.perf_counter()
    work.write(batches(work.inputs(sys.argv[1])), sys.argv[2], start_s)
