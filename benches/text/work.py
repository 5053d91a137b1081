"""The work of the peers of `bench-text` apart from their libraries' calls. Arguments: TEXTS, QUERIES, DIRECTORY."""

import json
import sys
import time
from pathlib import Path

TEXTS, QUERIES = (Path(path).read_text().splitlines() for path in sys.argv[1:3])
DIRECTORY = Path(sys.argv[3])
NEAREST = 10
CHANGED, DELETED = 100, 10
LOOKED_UP = 300
chosen = range(0, len(TEXTS), CHANGED)
deleted = [id for id in chosen if id // CHANGED % DELETED == 0]
changed = [id for id in chosen if id // CHANGED % DELETED != 0]
new = [f"{TEXTS[id]} renewed{id}" for id in changed]
gone: set[int] = set()
report: dict[str, object] = {}


def timed(name: str, work) -> None:
    start = time.perf_counter()
    work()
    report[name] = time.perf_counter() - start


def bytes_under(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def search(name: str, ask) -> None:
    """Measures and prints one JSON line. `ask(query)` returns the ids of the best rows."""
    times_ms, hits = [], []
    for query in QUERIES:
        start = time.perf_counter()
        hits.extend(ask(query))
        times_ms.append((time.perf_counter() - start) * 1e3)
    report[name] = {"times_ms": times_ms, "hits": len(hits)}
    report["gone"] = sum(id in gone for id in hits)


def run(build, change, ask, index_bytes) -> None:
    timed("build_s", build)
    report["index_bytes"] = index_bytes()
    search("before", ask)
    search("before", ask)

    def change_and_find() -> None:
        change()
        ask(f"renewed{changed[0]}")

    timed("change_s", change_and_find)
    gone.update(deleted)
    sample = changed[:LOOKED_UP]
    report["found"] = sum(ask(f"renewed{id}") == [id] for id in sample) / len(sample)
    search("changed", ask)
    print(json.dumps(report))
