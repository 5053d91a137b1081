"""`make bench-pipeline`: JPEGs → decode → resize → a vector by an ONNX model → written, in Cenote and its peers."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import BenchError, Contestant, Metric
from pictures import images

MODEL = "efficientnet_lite0"


def model() -> Path:
    """Returns the ONNX file that Cenote runs, which its first run has made."""
    found = sorted((harness.cache_directory() / "models").glob(f"{MODEL}-*/model.onnx"))
    if not found:
        raise BenchError(f"the model {MODEL} is not in the cache: run `make demo` once, which makes it")
    return found[-1]


def benchmark() -> None:
    parser = harness.arguments("Embed pictures by an ONNX model: Cenote, Daft and Ray Data side by side.")
    parser.add_argument("--count", type=int, default=1000, help="pictures (default: %(default)s)")
    options = parser.parse_args()
    python = harness.peers_python()
    directory, source = images(python, options.count)
    harness.warm_page_cache(directory)

    def peer(name: str, processes: str) -> Contestant:
        file = "{scratch}/vectors.arrow"
        return Contestant(
            name=name,
            command=[str(python), str(HERE / f"peer_{name}.py"), str(directory), file, str(model())],
            check=[str(python), str(HERE / "check_vectors.py"), str(directory), file, str(model())],
            expected={"images": options.count},
            processes=processes,
            settings={"peer_version": harness.peer_version(name)},
        )

    ours = None
    if not options.peers_only:
        binary = harness.build_example("bench_lake", options.profile)
        command = [str(binary), "image", str(directory), "{scratch}/lake", "embed"]
        ours = Contestant("cenote", command, expected={"images": options.count})
    metrics = [
        Metric("throughput", "images/s", "higher", lambda run: run.report["images"] / run.report["seconds"]),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
        Metric("cores busy", "%", "higher", lambda run: 100 * run.processor_s / run.wall_s / harness.cores()),
    ]
    settings = {
        "images": options.count,
        "source": source,
        "input": "JPEG 640x480, about 50 KB",
        "model": MODEL,
        "output": "1,280 float32 a picture; ours a Cenote table, theirs an uncompressed Arrow IPC file",
        "model_threads": "one a session, a session a core",
        "profile": options.profile,
        "input_cached": True,
    }
    harness.compare("pipeline", ours, [peer("daft", "one"), peer("ray", "many")], metrics, settings, options)


harness.main(benchmark)
