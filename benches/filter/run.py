"""`make bench-filter`: nearest vectors under a filter: speed, recall, and missing rows."""

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
    for share in SHARES:
        metrics += [
            Metric(f"speed at {share}", "queries/s", "higher", lambda run, share=share: run.report[share]["qps"]),
            Metric(f"recall at {share}", "", "higher", lambda run, share=share: run.report[share]["recall"]),
            Metric(f"rows short at {share}", "rows", "lower", lambda run, share=share: run.report[share]["short"]),
        ]
    settings = {
        "rows": options.rows,
        "queries": options.queries,
        "filter": "color < n, with a BTree on color",
        "nearest": vectors.NEAREST,
        "profile": options.profile,
    }
    harness.compare("filter", ours, peers, metrics, settings, options)


harness.main(benchmark)
