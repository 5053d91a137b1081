"""`make bench-fresh`: speed and recall of vector searches before and after small upserts and a change of 3%."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import vectors
from harness import Metric

CHANGED = ("upserted", "folded", "changed", "tended")
# Searches follow each change at once, and then once more, because indexes catch up meanwhile.
PASSES = ("before", *(name for changed in CHANGED for name in (changed, f"later {changed}")))


def kept(run: harness.Run, name: str) -> float:
    return run.report[name]["qps"] / run.report["before"]["qps"]


def benchmark() -> None:
    options = vectors.parser("Search while rows change: Cenote and Lance side by side.", 200_000).parse_args()
    ours, peers = vectors.contestants("fresh", options, vectors.LANCE)
    metrics = []
    for name in PASSES:
        metrics.append(Metric(f"speed {name}", "queries/s", "higher", lambda run, name=name: run.report[name]["qps"]))
        metrics.append(Metric(f"recall {name}", "", "higher", lambda run, name=name: run.report[name]["recall"]))
    metrics += [
        *(Metric(f"speed kept, {name}", "", "higher", lambda run, name=name: kept(run, name)) for name in PASSES[1:]),
        Metric("build", "s", "lower", lambda run: run.report["build_s"]),
        Metric("upkeep over build", "", "lower", lambda run: run.report["upkeep_s"] / run.report["build_s"]),
    ]
    settings = {
        "rows": options.rows,
        "queries": options.queries,
        "changes": "60 upserts of 100 rows that are there, then 3% of the rows",
        "nearest": vectors.NEAREST,
        "profile": options.profile,
    }
    harness.compare("fresh", ours, peers, metrics, settings, options)


harness.main(benchmark)
