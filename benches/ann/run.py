"""`make bench-ann`: nearest vectors in memory and on disk, in Cenote, hnswlib, usearch, faiss and Lance.

It measures the build, speed at equal recall, and memory.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric, Run
from vectors import LANCE

DIMENSIONS = {"clustered": 128, "glove": 50}
RECALLS = (0.95, 0.99)


def make_vectors(python: Path, data: str) -> Path:
    directory = harness.cache_directory() / "bench-ann" / data
    if not (directory / "truth.u32").exists():
        print(f"making the vectors in {directory}", file=sys.stderr, flush=True)
        if subprocess.run([python, HERE / "make_vectors.py", data, directory], check=False).returncode:
            raise harness.BenchError(f"cannot make the vectors called {data}: see the message above")
    return directory


def speed_at(recall: float, run: Run) -> float:
    """Returns queries per second at exactly this recall, interpolated between the two nearest measured points."""
    points = sorted(run.report["points"], key=lambda point: point["ef"])
    below = None
    for point in points:
        if point["recall"] >= recall:
            if below is None:
                return point["qps"]
            share = (recall - below["recall"]) / (point["recall"] - below["recall"])
            return below["qps"] + share * (point["qps"] - below["qps"])
        below = point
    raise harness.BenchError(f"recall {recall} was not met: {below['recall']:.4f} with the widest walk")


def benchmark() -> None:
    parser = harness.arguments("Search vectors in memory: Cenote, hnswlib, usearch and faiss side by side.")
    parser.add_argument("--data", choices=DIMENSIONS, default="clustered", help="which vectors (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads that build (default: %(default)s)")
    options = parser.parse_args()
    python = harness.peers_python()
    directory = make_vectors(python, options.data)
    harness.warm_page_cache(directory)
    files = [str(directory / name) for name in ("base.f32", "queries.f32", "truth.u32")]
    arguments = [str(DIMENSIONS[options.data]), "l2", *files, str(options.threads)]

    def peer(name: str, package: str, *extra: str) -> Contestant:
        script = HERE / f"peer_{name.partition('-')[0]}.py"
        settings = {"peer_version": harness.peer_version(package)}
        return Contestant(name, [str(python), str(script), *arguments, *extra], settings=settings)

    peers = [
        peer("hnswlib", "hnswlib"),
        peer("usearch-f32", "usearch", "f32"),
        peer("usearch-f16", "usearch", "f16"),
        peer("faiss", "faiss-cpu"),
        *(peer(f"lance-{structure.lower()}", "pylance", "{scratch}", structure) for structure in LANCE),
    ]
    ours = None
    if not options.peers_only:
        binary = harness.build_example("ann", options.profile)
        ours = Contestant("cenote", [str(binary), *arguments])
        rows = (directory / "base.f32").stat().st_size // 4 // DIMENSIONS[options.data]
        table = [str(harness.build_example("bench_lake", options.profile)), "search", "ann"]
        shape = [str(rows), "0", arguments[0], files[0], "{scratch}"]
        peers = [Contestant(f"cenote-table-{kind}", [*table, kind, *shape]) for kind in ("hnsw", "vector")] + peers
    metrics = [
        Metric(f"speed at recall {recall}", "queries/s", "higher", lambda run, recall=recall: speed_at(recall, run))
        for recall in RECALLS
    ]
    metrics += [
        Metric("build", "s", "lower", lambda run: run.report["build_s"]),
        Metric("build, processor time", "s", "lower", lambda run: run.report["build_cpu_s"]),
        Metric("index", "MiB", "lower", lambda run: run.report["memory_bytes"] / 2**20),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]
    settings = {
        "vectors": options.data,
        "graph": "16 links (32 in the base layer), width 150 while building",
        "nearest": 10,
        "build_threads": options.threads,
        "search": "one thread, by its processor time; the fastest of five passes over 1,000 queries; tables and lance "
        "by the clock, one query after the other, and with the ids read",
        "profile": options.profile,
    }
    name = "ann" if options.data == "clustered" else f"ann-{options.data}"
    harness.compare(name, ours, peers, metrics, settings, options)


harness.main(benchmark)
