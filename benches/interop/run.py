"""`make bench-interop`: the time to hand 10,000,000 rows from SQL to Polars, and whether they are copied."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import BenchError, Contestant, Metric


def made(python: list[str], script: str, rows: int) -> Path:
    """Returns the directory of the table in the format of `script`, made if it is not cached."""
    data = harness.cache_directory() / "bench-interop" / str(rows) / script
    if not data.is_dir():
        part = data.with_name(f"{script}.part{os.getpid()}")
        part.mkdir(parents=True)
        if subprocess.run([*python, HERE / f"{script}.py", "make", str(rows), part], check=False).returncode != 0:
            raise BenchError(f"{script}.py cannot write the table: see the message above")
        part.rename(data)
    harness.warm_page_cache(data)
    return data


def benchmark() -> None:
    parser = harness.arguments("Hand a large answer to Polars: Cenote and DuckDB side by side.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the answer (default: %(default)s)")
    options = parser.parse_args()
    python = [str(harness.peers_python())]
    if not options.peers_only:
        python = ["env", f"PYTHONPATH={harness.build_package(options.profile)}", *python]
    expected = {"rows": options.rows, "id_sum": options.rows * (options.rows - 1) // 2}
    not_copied = {"copied_pyarrow": 0, "copied_polars": 0, "copied_pandas": 0}

    def contestant(name: str, script: str, also: dict[str, object], settings: dict[str, object]) -> Contestant:
        data = made(python, script, options.rows)
        command = [*python, str(HERE / f"{script}.py"), "read", str(options.rows), str(data)]
        return Contestant(name, command, expected=expected | also, settings=settings)

    ours = None if options.peers_only else contestant("cenote", "ours", not_copied, {})
    duckdb = contestant("duckdb", "peer_duckdb", {}, {"peer_version": harness.peer_version("duckdb")})
    metrics = [
        Metric("first answer", "Mrows/s", "higher", lambda run: run.report["rows"] / run.report["first_s"] / 1e6),
        Metric("again", "Mrows/s", "higher", lambda run: run.report["rows"] / run.report["again_s"] / 1e6),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]
    settings = {
        "rows": options.rows,
        "row": "int64 key, float64, a text of 6 to 8 bytes",
        "query": "all columns, every row, to a Polars data frame",
        "copies": "none of numbers to pyarrow, Polars and pandas (ArrowDtype), by the addresses of buffers",
        "profile": options.profile,
        "input_cached": True,
    }
    harness.compare("interop", ours, [duckdb], metrics, settings, options)


harness.main(benchmark)
