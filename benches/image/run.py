"""`make bench-image`: JPEGs of 640×480 → decode → resize to 224×224 RGB → written, here and elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import BenchError, Contestant, Metric

# Names the cached pictures; counts up when make_images.py makes other ones.
IMAGES_VERSION = 1


def images(python: Path, count: int) -> tuple[Path, str]:
    """The folder of pictures, made if it is not in the cache, and what they are made from."""
    photographs = harness.assets_directory() / "coco-cc" / "images"
    source = "photographs" if photographs.is_dir() else "noise"
    if source == "noise":
        print(f"no photographs in {photographs} (CENOTE_ASSETS names another place): noise instead", file=sys.stderr)
    directory = harness.cache_directory() / "bench-images" / f"{source}-v{IMAGES_VERSION}-{count}"
    if not directory.is_dir():
        print(f"making {count} pictures in {directory}", file=sys.stderr, flush=True)
        part = directory.with_name(f"{directory.name}.part{os.getpid()}")
        part.mkdir(parents=True)
        command = [python, HERE / "make_images.py", part, str(count)]
        if source == "photographs":
            command.append(photographs)
        if subprocess.run(command, check=False).returncode != 0:
            raise BenchError("cannot make the pictures: see the message above")
        part.rename(directory)
    return directory, source


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
        binary = harness.build_example("bench_image", options.profile)
        command = [str(binary), str(directory), "{scratch}/lake"]
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
