"""Ray on one machine, a worker per core: `peer_ray.py TASKS CALLS TRIPS FAN`. Clocks start when the workers are up."""

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
MIXED = 1000


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


@ray.remote
def mixed(milliseconds: int, *_inputs: None) -> None:
    time.sleep(milliseconds / 1e3)


def mixed_graph(cores: int) -> float:
    """Returns the makespan of the graph that `bench_scheduler.rs` makes, over its lower bound."""
    state = 0

    def below(limit: int) -> int:
        nonlocal state
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (state >> 33) % limit

    references, ends, work = [], [], 0
    start_s = time.perf_counter()
    for number in range(MIXED):
        milliseconds = 1 + below(10)
        wide = min(cores, 2) if below(3) == 0 else 1
        after = [number - 1 - below(min(20, number)) for _ in range(min(2, number))]
        inputs = [references[other] for other in after]
        references.append(mixed.options(num_cpus=wide).remote(milliseconds, *inputs))
        ends.append(milliseconds + max((ends[other] for other in after), default=0))
        work += milliseconds * wide
    ray.get(references)
    return (time.perf_counter() - start_s) * 1e3 / max(max(ends), work / cores)


def objects(size: int) -> tuple[float, float]:
    """Returns the mean times of a put and of a get, in µs."""
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

    report["trip_us"] = asyncio.run(async_trips(counter, trips))

    report["put_1_us"], report["get_1_us"] = objects(1_000_000)
    report["put_100_us"], report["get_100_us"] = objects(100_000_000)

    start_s = time.perf_counter()
    one = ray.put(1)
    report["fan_sum"] = ray.get(add_up.remote(*[add.remote(one, mine) for mine in range(fan)]))
    report["fan_ms"] = (time.perf_counter() - start_s) * 1e3
    report["makespan_over_bound"] = mixed_graph(cores)
    return report


if __name__ == "__main__":
    # Paths of sockets have 107 bytes at most, so this directory is not the harness's own.
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
