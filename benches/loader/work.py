"""The work of every contestant of `make bench-loader`: a cold epoch, a warm one, half of one and a resume from there.

Arguments: `make PICTURES DATA` writes the pictures in the contestant's format; `read DATA WORKERS MODE` measures and
prints one JSON line. MODE is `decode`, for batches of float tensors, or `raw`, for the bytes of the files.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow.compute
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

BATCH_ROWS = 64
SIDE = 224
SEED = 7
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 100


class Loader(Protocol):
    """Batches of one epoch after the other: (pictures, labels)."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> None: ...


def pictures(directory: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields number, label and JPEG of each picture."""
    for number, path in enumerate(sorted(Path(directory).glob("*.jpg"))):
        yield number, number % CLASSES, path.read_bytes()


def decoder(mode: str) -> Callable[[bytes], Any]:
    """Returns a peer's function of one file's bytes: libjpeg-turbo and torchvision's transforms, or the identity."""
    if mode == "raw":
        return lambda data: data
    finish = v2.Compose([
        v2.RandomResizedCrop(SIDE, antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, DEVIATION),
    ])

    def decode(data: bytes) -> torch.Tensor:
        return finish(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))

    return decode


def collate(samples: list[tuple[Any, int]]) -> tuple[Any, Any]:
    """Makes samples a batch: one tensor, or a list of bytes."""
    made, labels = zip(*samples, strict=True)
    return (torch.stack(made) if isinstance(made[0], torch.Tensor) else list(made)), torch.tensor(labels)


def evict(data: str) -> None:
    """Evicts the files from the page cache."""
    for path in Path(data).rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def bytes_of(batch: Any) -> int:
    """Returns the bytes of a batch of files, a list or an Arrow array, or of a tensor's numbers."""
    if isinstance(batch, list):
        return sum(map(len, batch))
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    return pyarrow.compute.sum(pyarrow.compute.binary_length(batch)).as_py()


def run(make: Callable[[Iterable[tuple[int, int, bytes]], str], None], load: Callable[[str, int, str], Loader]) -> None:
    """Makes the data or measures. `make` writes pictures into a directory; `load` takes (data, workers, mode)."""
    if sys.argv[1] == "make":
        return make(pictures(sys.argv[2]), sys.argv[3])
    data, workers, mode = sys.argv[2], int(sys.argv[3]), sys.argv[4]
    report: dict[str, float] = {"samples": 0, "label_sum": 0, "bytes": 0, "batches": 0}
    evict(data)
    start_s = time.perf_counter()
    loader = load(data, workers, mode)
    for batch, labels in loader:
        report.setdefault("first_s", time.perf_counter() - start_s)
        report["samples"] += len(labels)
        report["label_sum"] += sum(labels.tolist())
        report["bytes"] += bytes_of(batch)
        report["batches"] += 1
        if mode == "decode":
            assert tuple(batch.shape[1:]) == (3, SIDE, SIDE) and batch.element_size() == 4, batch.shape
    report["cold_s"] = time.perf_counter() - start_s
    start_s = time.perf_counter()
    for _ in loader:
        pass
    report["warm_s"] = time.perf_counter() - start_s
    batches = iter(loader)
    for _ in range(int(report["batches"]) // 2):
        next(batches)
    state = loader.state_dict()
    del batches, loader
    start_s = time.perf_counter()
    loader = load(data, workers, mode)
    loader.load_state_dict(state)
    next(iter(loader))
    report["resume_s"] = time.perf_counter() - start_s
    print(json.dumps(report), flush=True)
    # The threads and workers of some peers do not end by themselves.
    os._exit(0)
