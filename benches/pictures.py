"""The pictures that several benchmarks read: JPEGs of 640×480, made once and kept in the cache."""

import os
import subprocess
import sys
from pathlib import Path

import harness
from harness import BenchError

MAKE = Path(__file__).resolve().parent / "image" / "make_images.py"
# Part of the cache key; increase it when make_images.py makes different pictures.
IMAGES_VERSION = 1
SIZE_BYTES = 50_000


def images(python: Path, count: int, size_bytes: int = SIZE_BYTES) -> tuple[Path, str]:
    """Returns the folder of pictures of about `size_bytes`, made if it is not cached, and their source."""
    photographs = harness.assets_directory() / "coco-cc" / "images"
    source = "photographs" if photographs.is_dir() else "noise"
    if source == "noise":
        print(f"no photographs in {photographs} (CENOTE_ASSETS names another place): noise instead", file=sys.stderr)
    size = "" if size_bytes == SIZE_BYTES else f"-{size_bytes}"
    directory = harness.cache_directory() / "bench-images" / f"{source}-v{IMAGES_VERSION}{size}-{count}"
    if not directory.is_dir():
        print(f"making {count} pictures in {directory}", file=sys.stderr, flush=True)
        part = directory.with_name(f"{directory.name}.part{os.getpid()}")
        part.mkdir(parents=True)
        command = [python, MAKE, part, str(count), str(size_bytes)]
        if source == "photographs":
            command.append(photographs)
        if subprocess.run(command, check=False).returncode != 0:
            raise BenchError("cannot make the pictures: see the message above")
        part.rename(directory)
    return directory, source
