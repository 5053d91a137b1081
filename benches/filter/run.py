"""`make bench-filter`: nearest vectors among the rows that satisfy a filter: speed, recall, and rows that are missing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import vectors
from harness import Metric

SHARES = ("50%", "10%", "1%", "0.1%")


def benchmark() -> None:
    options = vectors.parser("Search under a filter: Cenote and Lance side by side.", 200_000).parse_args()
    ours, peers = vectors.contestants("filter", options, vectors.LANCE)
    metrics = []
    for name in SHARES:
        metrics.append(Metric(f"speed at {name}", "queries/s", "higher", lambda run, name=name: run.report[name]["qps"]))
        metrics.append(Metric(f"recall at {name}", "", "higher", lambda run, name=name: run.report[name]["recall"]))
        metrics.append(Metric(f"rows short at {name}", "rows", "lower", lambda run, name=name: run.report[name]["short"]))
    settings = {
        "rows": options.rows,
        "queries": options.queries,
        "filter": "color < n, with a BTree on color",
        "nearest": vectors.NEAREST,
        "profile": options.profile,
    }
    harness.compare("filter", ours, peers, metrics, settings, options)


harness.main(benchmark)
