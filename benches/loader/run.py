"""`make bench-loader`: batches of pictures for training, decoded and as they are, in Cenote and its peers."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import BenchError, Contestant, Metric
from pictures import images

PICTURE_BYTES = 100_000
# As in work.py, which needs PyTorch to be imported.
CLASSES, BATCH_ROWS, SIDE = 100, 64, 224
PEERS = {
    "imagefolder": "torchvision",
    "webdataset": "webdataset",
    "litdata": "litdata",
    "mosaic": "mosaicml-streaming",
    "lance": "pylance",
    "lancedb": "lancedb",
}


def made(python: list[str], script: str, pictures: Path) -> Path:
    """Returns the directory of the pictures in the format of `script`, made if it is not cached."""
    data = harness.cache_directory() / "bench-loader" / pictures.name / script
    if not data.is_dir():
        print(f"making {data}", file=sys.stderr, flush=True)
        part = data.with_name(f"{script}.part{os.getpid()}")
        part.mkdir(parents=True)
        if subprocess.run([*python, HERE / f"{script}.py", "make", pictures, part], check=False).returncode != 0:
            raise BenchError(f"{script}.py cannot keep the pictures: see the message above")
        part.rename(data)
    return data


def metrics(mode: str) -> list[Metric]:
    rate = {
        "decode": ("samples/s", lambda run, time: run.report["samples"] / run.report[time]),
        "raw": ("MB/s", lambda run, time: run.report["bytes"] / run.report[time] / 1e6),
    }
    unit, read = rate[mode]
    return [
        Metric("cold", unit, "higher", lambda run: read(run, "cold_s")),
        Metric("warm", unit, "higher", lambda run: read(run, "warm_s")),
        Metric("first batch", "ms", "lower", lambda run: run.report["first_s"] * 1e3),
        Metric("resume", "ms", "lower", lambda run: run.report["resume_s"] * 1e3),
        Metric("peak memory", "MiB", "lower", lambda run: run.memory_peak_bytes / 2**20),
    ]


def benchmark() -> None:
    parser = harness.arguments("Load pictures for training: Cenote and six other loaders side by side.")
    parser.add_argument("--count", type=int, default=20_000, help="pictures (default: %(default)s)")
    parser.add_argument("--workers", default="0,2", help="worker processes of PyTorch (default: %(default)s)")
    modes = "to tensors, or the bytes of the files (default: %(default)s)"
    parser.add_argument("--modes", default="decode,raw", help=modes)
    options = parser.parse_args()
    pictures, source = images(harness.peers_python(), options.count, PICTURE_BYTES)
    python = [str(harness.torch_python())]
    if not options.peers_only:
        python = ["env", f"PYTHONPATH={harness.build_package(options.profile)}", *python]
    scripts = {name: f"peer_{name}" for name in PEERS} | {"disk": "disk"}
    chosen = [name for name in scripts if not options.only or name in options.only.split(",")]
    options.only = ""
    labels = sum(number % CLASSES for number in range(options.count))

    for mode in options.modes.split(","):
        for workers in options.workers.split(","):

            def contestant(name: str, script: str, version: str, expected: dict[str, object]) -> Contestant:
                data = made(python, script, pictures)
                return Contestant(
                    name=name,
                    command=[*python, str(HERE / f"{script}.py"), "read", str(data), workers, mode],
                    expected=expected,
                    processes="one" if workers == "0" else "many",
                    settings={"peer_version": version},
                )

            whole = {"samples": options.count, "label_sum": labels}
            peers = [
                contestant(name, scripts[name], harness.peer_version(PEERS[name], harness.TORCH_PEERS), whole)
                for name in chosen
                if name in PEERS
            ]
            if mode == "raw" and "disk" in chosen:
                peers.append(contestant("disk", "disk", "one file from end to end", {}))
            ours = None if options.peers_only else contestant("cenote", "ours", "", whole)
            crops = f"float32 3x{SIDE}x{SIDE} by random crops"
            settings = {
                "pictures": options.count,
                "source": source,
                "input": f"JPEG 640x480, about {PICTURE_BYTES // 1000} KB, with a label",
                "output": f"batches of {BATCH_ROWS}: {crops}" if mode == "decode" else "the bytes",
                "workers": int(workers),
                "profile": options.profile,
                "cold": "files evicted from the page cache; opening the loader counts",
            }
            harness.compare(f"loader-{mode}-{workers}", ours, peers, metrics(mode), settings, options)


harness.main(benchmark)
