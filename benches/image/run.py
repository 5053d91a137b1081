"""`make bench-image`: JPEGs of 640×480 → decode → resize to 224×224 RGB → written, in Cenote and its peers."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric
from pictures import images

def benchmark() -> None:
    parser = harness.arguments("Decode and resize pictures: Cenote, Daft, Ray Data and Pillow side by side.")
    parser.add_argument("--count", type=int, default=3000, help="pictures (default: %(default)s)")
    options = parser.parse_args()
    python = harness.peers_python()
    directory, source = images(python, options.count)
    harness.warm_page_cache(directory)

    def peer(name: str, script: str, *arguments: str, processes: str = "one", **settings: object) -> Contestant:
        file = "{scratch}/pixels.arrow"
        return Contestant(
            name=name,
            command=[str(python), str(HERE / script), str(directory), file, *arguments],
            check=[str(python), str(HERE / "check_pixels.py"), str(directory), file],
            expected={"images": options.count},
            processes=processes,
            settings=settings,
        )

    peers = [
        peer("daft", "peer_daft.py", peer_version=harness.peer_version("daft")),
        peer("ray", "peer_ray.py", processes="many", peer_version=harness.peer_version("ray")),
        peer("pil", "peer_pil.py", peer_version=harness.peer_version("pillow"), threads=1),
        peer("pil-draft", "peer_pil.py", "draft", peer_version=harness.peer_version("pillow"), threads=1),
    ]
    ours = None
    if not options.peers_only:
        binary = harness.build_example("bench_lake", options.profile)
        command = [str(binary), "image", str(directory), "{scratch}/lake", "resize"]
        ours = Contestant("cenote", command, expected={"images": options.count})
    metrics = [
        Metric("throughput", "images/s", "higher", lambda run: run.report["images"] / run.report["seconds"]),
        Metric("throughput with start", "images/s", "higher", lambda run: run.report["images"] / run.wall_s),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]
    settings = {
        "images": options.count,
        "source": source,
        "input": "JPEG 640x480, about 50 KB",
        "output": "224x224 RGB as fixed-size list of uint8; ours a Cenote table, theirs an uncompressed Arrow IPC file",
        "profile": options.profile,
        "input_cached": True,
    }
    harness.compare("image", ours, peers, metrics, settings, options)


harness.main(benchmark)
