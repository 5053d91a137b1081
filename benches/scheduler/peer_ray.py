"""Ray on one machine, a worker a core: `peer_ray.py TASKS CALLS TRIPS FAN`. Every clock starts when Ray and its workers are up."""

import asyncio
import json
import logging
import os
import sys
import tempfile
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy
import pyarrow
import ray

PUTS = 20


@ray.remote
def empty() -> None:
    return None


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls


@ray.remote
def add(number: int, mine: int) -> int:
    return number + mine


@ray.remote
def add_up(*numbers: int) -> int:
    return sum(numbers)


def objects(size: int) -> tuple[float, float]:
    """Means of putting and of getting, in µs."""
    batch = pyarrow.record_batch({"number": numpy.arange(size // 8)})
    put_s = get_s = 0.0
    for _ in range(PUTS):
        start_s = time.perf_counter()
        reference = ray.put(batch)
        put_s += time.perf_counter() - start_s
        start_s = time.perf_counter()
        ray.get(reference)
        get_s += time.perf_counter() - start_s
        del reference
    return put_s * 1e6 / PUTS, get_s * 1e6 / PUTS


async def async_trips(counter, trips: int) -> list[float]:
    trip_us = []
    for _ in range(trips):
        start_s = time.perf_counter()
        await counter.count.remote()
        trip_us.append((time.perf_counter() - start_s) * 1e6)
    return trip_us


def measure(tasks: int, calls: int, trips: int, fan: int) -> dict[str, object]:
    cores = len(os.sched_getaffinity(0))
    ray.get([empty.remote() for _ in range(50 * cores)])
    counter = Counter.remote()
    ray.get(counter.count.remote())
    report: dict[str, object] = {}

    start_s = time.perf_counter()
    ray.get([empty.remote() for _ in range(tasks)])
    report["tasks_per_s"] = tasks / (time.perf_counter() - start_s)

    start_s = time.perf_counter()
    called = ray.get([counter.count.remote() for _ in range(calls)])
    report["calls_per_s"] = calls / (time.perf_counter() - start_s)
    report["called"] = called[-1] - 1

    trip_us = []
    for _ in range(trips):
        start_s = time.perf_counter()
        ray.get(counter.count.remote())
        trip_us.append((time.perf_counter() - start_s) * 1e6)
    report["trip_us"] = trip_us

    report["async_trip_us"] = asyncio.run(async_trips(counter, trips))

    report["put_1_us"], report["get_1_us"] = objects(1_000_000)
    report["put_100_us"], report["get_100_us"] = objects(100_000_000)

    start_s = time.perf_counter()
    one = ray.put(1)
    report["fan_sum"] = ray.get(add_up.remote(*[add.remote(one, mine) for mine in range(fan)]))
    report["fan_ms"] = (time.perf_counter() - start_s) * 1e3
    return report


if __name__ == "__main__":
    # The sockets below this directory may have names of 107 bytes at most, so it is not the harness's own.
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        ray.init(
            num_cpus=len(os.sched_getaffinity(0)),
            object_store_memory=1 << 30,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _temp_dir=directory,
        )
        report = measure(*map(int, sys.argv[1:5]))
        ray.shutdown()
        print(json.dumps(report))
