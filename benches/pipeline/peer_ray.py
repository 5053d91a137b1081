"""Ray Data, the model in an actor per core: `peer_ray.py INPUT OUTPUT MODEL`. The clock starts when Ray is up."""

import logging
import os
import sys
import tempfile
import time

# Workers also import the modules beside this file.
HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy
import pyarrow
import ray

import work


class Embed:
    def __init__(self, model: str) -> None:
        self.embedder = work.Embedder(model)

    def __call__(self, batch: dict[str, numpy.ndarray]) -> pyarrow.Table:
        paths = [str(path) for path in batch["item"]]
        return pyarrow.Table.from_batches([work.batch(paths, self.embedder.embed(paths))])


def batches(paths: list[str], cores: int, model: str):
    data = ray.data.from_items(paths).map_batches(
        Embed, fn_constructor_args=(model,), concurrency=cores, batch_size=work.BATCH_ROWS
    )
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.cast(work.SCHEMA).to_batches()


if __name__ == "__main__":
    # Paths of sockets have 107 bytes at most, so this directory is not the harness's own.
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        cores = len(os.sched_getaffinity(0))
        ray.init(num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=directory)
        ray.data.DataContext.get_current().enable_progress_bars = False
        start_s = time.perf_counter()
        work.write(batches(work.inputs(sys.argv[1]), cores, sys.argv[3]), sys.argv[2], start_s)
        ray.shutdown()
