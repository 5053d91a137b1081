"""`make bench-upsert`: durable upserts of 1, 100 and 10,000 rows into a table of vectors, and lookups by key."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric

LARGE_CALLS = 60


def rows_after(rows: int, calls: int, large_calls: int) -> int:
    """Returns the number of rows after every call, counted by a plain set."""
    written = calls + 100 * calls + 10_000 * large_calls
    return len(set(range(rows)).union(number * 7919 % (2 * rows) for number in range(written)))


def benchmark() -> None:
    parser = harness.arguments("Upsert small batches: Cenote, Lance, LanceDB and DuckDB side by side.")
    parser.add_argument("--rows", type=int, default=200_000, help="rows loaded first (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=1000, help="calls of 1 and of 100 rows (default: %(default)s)")
    peer_calls = "the same for Lance and LanceDB (default: %(default)s)"
    parser.add_argument("--peer-calls", type=int, default=60, help=peer_calls)
    options = parser.parse_args()
    python = harness.peers_python()

    def peer(name: str, package: str, calls: int, large_calls: int) -> Contestant:
        command = [str(python), str(HERE / f"peer_{name}.py"), str(options.rows), str(calls), str(large_calls)]
        return Contestant(
            name=name,
            command=[*command, "{scratch}"],
            expected={"count": rows_after(options.rows, calls, large_calls)},
            settings={"peer_version": harness.peer_version(package), "calls": calls, "large_calls": large_calls},
        )

    peers = [
        peer("lance", "pylance", options.peer_calls, 10),
        peer("lancedb", "lancedb", options.peer_calls, 10),
        peer("duckdb", "duckdb", options.calls, LARGE_CALLS),
    ]
    ours = None
    if not options.peers_only:
        binary = harness.build_example("bench_lake", options.profile)
        command = [str(binary), "upsert", str(options.rows), str(options.calls), "{scratch}/lake"]
        expected = {"count": rows_after(options.rows, options.calls, LARGE_CALLS)}
        ours = Contestant("cenote", command, expected=expected)

    def milliseconds(name: str, key: str) -> Metric:
        return Metric(name, "ms", "lower", lambda run: run.report[key])

    metrics = [
        milliseconds("1 row, p50", "p50_1_ms"),
        milliseconds("1 row, p99", "p99_1_ms"),
        milliseconds("100 rows, p50", "p50_100_ms"),
        milliseconds("100 rows, p99", "p99_100_ms"),
        milliseconds("100 rows, first tenth", "first_100_ms"),
        milliseconds("100 rows, last tenth", "last_100_ms"),
        Metric("10,000 rows", "rows/s", "higher", lambda run: run.report["rows_s_10000"]),
        milliseconds("lookup, p50", "lookup_ms"),
        milliseconds("lookup before folding, p50", "lookup_changed_ms"),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]
    settings = {
        "rows": options.rows,
        "row": "int64 key, 128 float32, int64",
        "calls": options.calls,
        "large_calls": LARGE_CALLS,
        "profile": options.profile,
        "durable": "ours and DuckDB sync each call to disk; Lance and LanceDB do not",
    }
    harness.compare("upsert", ours, peers, metrics, settings, options)


harness.main(benchmark)
