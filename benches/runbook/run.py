"""`make bench-runbook`: insert, delete, replace and search in turns; a hit of a deleted or old row fails the run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import vectors
from harness import Metric


def benchmark() -> None:
    parser = vectors.parser("Stream rows in and out of a table and search it: Cenote's kinds of index.", 100_000)
    options = parser.parse_args()
    ours, peers = vectors.contestants("runbook", options, ())
    metrics = [
        Metric("mean recall", "", "higher", lambda run: run.report["mean"]),
        Metric("worst recall of a step", "", "higher", lambda run: run.report["worst"]),
        Metric("p99", "ms", "lower", lambda run: run.report["p99_ms"]),
        Metric("all steps", "s", "lower", lambda run: run.report["steps_s"]),
    ]
    settings = {
        "rows": options.rows,
        "queries": f"{options.queries} a step",
        "steps": "16 clusters of 5 rounds: insert, delete half as many, replace a quarter as many, search",
        "truth": "exact at each step; equal within 1e-6",
        "profile": options.profile,
    }
    harness.compare("runbook", ours, peers, metrics, settings, options)


harness.main(benchmark)
