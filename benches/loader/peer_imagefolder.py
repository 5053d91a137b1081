"""torchvision's ImageFolder, a file per picture, in torchdata's loader, which keeps its position.

Arguments: `work.py`.
"""

from pathlib import Path

import torch
import work
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.datasets import DatasetFolder


def make(pictures, data: str) -> None:
    for number, label, picture in pictures:
        folder = Path(data) / f"{label:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.jpg").write_bytes(picture)


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def load(data: str, workers: int, mode: str):
    # ImageFolder is a DatasetFolder that reads with Pillow; libjpeg-turbo into tensors is faster.
    dataset = DatasetFolder(data, loader=read, extensions=(".jpg",), transform=work.decoder(mode))
    return StatefulDataLoader(
        dataset,
        batch_size=work.BATCH_ROWS,
        shuffle=True,
        num_workers=workers,
        collate_fn=work.collate,
        generator=torch.Generator().manual_seed(work.SEED),
    )


work.run(make, load)
