"""`make bench-scheduler`: the cost of a task, an actor call and an object, in Cenote and Ray."""

import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric


def metrics() -> list[Metric]:
    return [
        Metric("empty tasks", "1/s", "higher", lambda run: run.report["tasks_per_s"]),
        Metric("actor calls", "1/s", "higher", lambda run: run.report["calls_per_s"]),
        Metric("round trip p50", "µs", "lower", lambda run: statistics.median(run.report["trip_us"])),
        Metric("put 1 MB", "µs", "lower", lambda run: run.report["put_1_us"]),
        Metric("get 1 MB", "µs", "lower", lambda run: run.report["get_1_us"]),
        Metric("put 100 MB", "µs", "lower", lambda run: run.report["put_100_us"]),
        Metric("get 100 MB", "µs", "lower", lambda run: run.report["get_100_us"]),
        Metric("fan out and in", "ms", "lower", lambda run: run.report["fan_ms"]),
        Metric("mixed graph over bound", "×", "lower", lambda run: run.report["makespan_over_bound"]),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]


def benchmark() -> None:
    parser = harness.arguments("Measure the cost of a task, a call and an object: Cenote and Ray side by side.")
    parser.add_argument("--fan", type=int, default=10_000, help="tasks fanned out and in (default: %(default)s)")
    options = parser.parse_args()
    fan = options.fan
    python = harness.peers_python()

    def contestant(name: str, program: list[str], tasks: int, calls: int, trips: int, **settings) -> Contestant:
        counts = {"tasks": tasks, "calls": calls, "trips": trips}
        return Contestant(
            name=name,
            command=[*program, *map(str, counts.values()), str(fan)],
            # Every call must arrive once, and the numbers from 1 to the fan must add up.
            expected={"called": calls, "fan_sum": fan * (fan + 1) // 2},
            settings={f"{name}_{what}": count for what, count in counts.items()} | settings,
            processes="many" if name == "ray" else "one",
        )

    # Ray does fewer, because as many would take minutes; the figures are rates.
    ray = contestant(
        "ray",
        [str(python), str(HERE / "peer_ray.py")],
        2000,
        5000,
        500,
        peer_version=harness.peer_version("ray"),
    )
    ours, settings = None, {}
    if not options.peers_only:
        binary = harness.build_example("bench_scheduler", options.profile)
        ours = contestant("cenote", [str(binary)], 200_000, 200_000, 20_000)
        settings = dict(ours.settings)
    settings |= {
        "fan": fan,
        "object": "one record batch of int64; ours stays in the process, Ray's is in shared memory",
        "round trip": "one call at a time, from an async task",
        "profile": options.profile,
    }
    harness.compare("scheduler", ours, [ray], metrics(), settings, options)


harness.main(benchmark)
