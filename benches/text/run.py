"""`make bench-text`: the ten best of ten copies of the tldr pages by BM25, before and after a change of 1%."""

import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric


def prepare(python: Path, copies: int, queries: int) -> Path:
    pages = harness.assets_directory() / "text-tldr" / "pages.jsonl.gz"
    if not pages.exists():
        raise harness.BenchError(f"there is no {pages}: set CENOTE_ASSETS to where text-tldr/pages.jsonl.gz is")
    directory = harness.cache_directory() / "bench-text" / f"{copies}-{queries}"
    if not (directory / "queries").exists():
        print(f"making the texts in {directory}", file=sys.stderr, flush=True)
        command = [python, HERE / "make_texts.py", pages, str(copies), str(queries), directory]
        if subprocess.run(command, check=False).returncode:
            raise harness.BenchError("cannot make the texts: see the message above")
    harness.warm_page_cache(directory)
    return directory


def has_duckdb_fts(python: Path) -> bool:
    """Returns whether DuckDB has its extension fts, from its own server or from an earlier run."""
    load = "import duckdb; duckdb.connect().execute('INSTALL fts; LOAD fts')"
    return subprocess.run([python, "-c", load], check=False, capture_output=True).returncode == 0


def metrics() -> list[Metric]:
    chosen = []
    for name, when in (("before", ""), ("changed", " after a change")):
        times = lambda run, name=name: run.report[name]["times_ms"]
        speed = lambda run, times=times: 1e3 / statistics.mean(times(run))
        chosen.append(Metric(f"speed{when}", "queries/s", "higher", speed))
        for percent in (50, 99):
            read = lambda run, times=times, percent=percent: statistics.quantiles(times(run), n=100)[percent - 1]
            chosen.append(Metric(f"p{percent}{when}", "ms", "lower", read))
    return chosen + [
        Metric("build", "s", "lower", lambda run: run.report["build_s"]),
        Metric("index", "MiB", "lower", lambda run: run.report["index_bytes"] / 2**20),
        Metric("change until found", "s", "lower", lambda run: run.report["change_s"]),
        Metric("changed rows found", "", "higher", lambda run: run.report["found"]),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]


def benchmark() -> None:
    parser = harness.arguments("Search texts: Cenote, LanceDB, Tantivy and DuckDB side by side.")
    parser.add_argument("--copies", type=int, default=10, help="copies of 34,608 pages (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=1000, help="searches per pass (default: %(default)s)")
    options = parser.parse_args()
    python = harness.peers_python()
    directory = prepare(python, options.copies, options.queries)
    arguments = [str(directory / "texts"), str(directory / "queries"), "{scratch}"]
    # A deleted row among the hits fails a run.
    expected = {"gone": 0}

    def peer(name: str) -> Contestant:
        command = [str(python), str(HERE / f"peer_{name}.py"), *arguments]
        return Contestant(name, command, expected=expected, settings={"peer_version": harness.peer_version(name)})

    peers = [peer("lancedb"), peer("tantivy")]
    without = "none"
    if has_duckdb_fts(python):
        peers.append(peer("duckdb"))
    else:
        without = "duckdb: its extension fts is not in the package, and its server cannot be reached"
        print(f"left out: {without}", file=sys.stderr, flush=True)
    ours = None
    if not options.peers_only:
        binary = harness.build_example("bench_lake", options.profile)
        ours = Contestant("cenote", [str(binary), "text", *arguments], expected=expected)
    settings = {
        "rows": f"{options.copies} copies of the 34,608 tldr pages, each shorter by a word",
        "queries": f"{options.queries} of 2 to 4 words of an English page, any of them, one at a time",
        "best": 10,
        "change": "0.9% of the rows renewed, 0.1% deleted",
        "analysis": "English stems; tantivy keeps stop words, which no query has",
        "left_out": without,
        "profile": options.profile,
    }
    harness.compare("text", ours, peers, metrics(), settings, options)


harness.main(benchmark)
