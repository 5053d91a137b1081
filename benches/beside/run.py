"""`make bench-beside`: durable upserts beside a build, a collection and a join, and updates of rows with media."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric

WORK = {"rest": "at rest", "join": "files joined", "collect": "past collected", "build": "index built"}


def benchmark() -> None:
    parser = harness.arguments("Upsert beside long work on the same table: Cenote alone.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows loaded first (default: %(default)s)")
    parser.add_argument("--versions", type=int, default=200_000, help="versions to collect (default: %(default)s)")
    options = parser.parse_args()
    binary = harness.build_example("bench_lake", options.profile)
    command = [str(binary), "beside", str(options.rows), str(options.versions), "{scratch}/lake"]

    def reported(name: str, unit: str, key: str) -> Metric:
        return Metric(name, unit, "lower", lambda run: run.report[key])

    metrics = []
    for key, name in WORK.items():
        metrics += [
            reported(f"{name}, p50", "ms", f"{key}_p50_ms"),
            reported(f"{name}, p99", "ms", f"{key}_p99_ms"),
            reported(f"{name}, longest", "ms", f"{key}_max_ms"),
            reported(f"{name}, in all", "s", f"{key}_s"),
        ]
    for key, name in {"update_1": "update of 1 row with media", "update_100": "update of 100"}.items():
        metrics += [reported(f"{name}, p50", "ms", f"{key}_p50_ms"), reported(f"{name}, p99", "ms", f"{key}_p99_ms")]
    settings = {
        "rows": options.rows,
        "row": "int64 key, 128 float32, int64",
        "versions": options.versions,
        "profile": options.profile,
    }
    harness.compare("beside", Contestant("cenote", command), [], metrics, settings, options)


harness.main(benchmark)
