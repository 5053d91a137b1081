"""Trains a small image classifier on photographs of clothes in a lake, on the CPU, and prints its accuracy.

    python examples/clothing/train.py FOLDER --epochs 20

FOLDER has `train/CLASS/*.jpg` and `validation/CLASS/*.jpg`. The lake keeps the photographs between runs, and a run
that was stopped resumes after the last epoch that it finished.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

import cenote

SIDE = 64
SHAPES = [cenote.op.random_resized_crop(SIDE, scale=(0.5, 1.0)), cenote.op.random_horizontal_flip()]


def ingest(lake: cenote.Lake, folder: Path) -> cenote.Table:
    """Returns the table of photographs, which it fills on the first call: path, part, class and picture of each."""
    if "clothes" in lake.tables():
        return lake.table("clothes")
    schema = {"path": str, "part": str, "name": str, "label": int, "picture": cenote.Image}
    table = lake.create_table("clothes", schema, primary_key="path")
    names = sorted(path.name for path in (folder / "train").iterdir())

    def rows():
        for path in sorted(folder.glob("*/*/*.jpg")):
            part, name = path.parts[-3:-1]
            yield {
                "path": str(path.relative_to(folder)),
                "part": part,
                "name": name,
                "label": names.index(name),
                "picture": path.read_bytes(),
            }

    pending: list[dict[str, object]] = []
    for row in rows():
        pending.append(row)
        if len(pending) == 200:
            table.upsert(pending)
            pending.clear()
    table.upsert(pending)
    return table


def network(classes: int) -> nn.Module:
    """Returns four convolutions, each followed by pooling that halves the picture's sides."""
    layers: list[nn.Module] = []
    for inputs, outputs in [(3, 32), (32, 64), (64, 128), (128, 128)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes))


@torch.no_grad()
def accuracy(model: nn.Module, loader: cenote.Loader) -> float:
    model.eval()
    right = sum(int((model(batch["picture"]).argmax(1) == batch["label"]).sum()) for batch in loader)
    return right / loader.epoch_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--lake", type=Path, default=Path("clothes-lake"))
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    checkpoint = arguments.lake / "checkpoint.pt"

    with cenote.open(arguments.lake, create=True) as lake:
        table = ingest(lake, arguments.photographs)
        decode, normalize = cenote.op.decode_image(), cenote.op.normalize()
        train = table.loader(
            ["picture", "label"],
            where="part = 'train'",
            batch_size=50,
            shuffle=cenote.Shuffle(seed=1),
            transform=[decode, *SHAPES, normalize],
            output="torch",
        )
        middle = [decode, cenote.op.resize(SIDE), cenote.op.center_crop(SIDE), normalize]
        check = table.loader(
            ["picture", "label"], where="part = 'validation'", transform=middle, output="torch", batch_size=100
        )
        torch.manual_seed(1)
        model = network(classes=10)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
        if checkpoint.exists():
            saved = torch.load(checkpoint)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            train.load_state_dict(saved["loader"])
            print(f"going on in epoch {train.epoch}, {train.batches_left} batches before its end")

        while train.epoch < arguments.epochs:
            epoch, start, lost = train.epoch, time.monotonic(), 0.0
            model.train()
            for batch in train:
                loss = nn.functional.cross_entropy(model(batch["picture"]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                lost += float(loss.detach()) * batch.rows
            states = {"model": model, "optimizer": optimizer, "loader": train}
            torch.save({name: part.state_dict() for name, part in states.items()}, checkpoint)
            loss_mean, rate = lost / train.epoch_rows, train.epoch_rows / (time.monotonic() - start)
            print(f"epoch {epoch}: loss {loss_mean:.3f}, {rate:.0f} photographs/s", flush=True)

        stats = train.stats()
        waited, decoded = stats["wait_seconds"], stats["decode_seconds"]
        print(f"training waited {waited:.1f} s for photographs; threads decoded for {decoded:.1f} s")
        print(f"accuracy {accuracy(model, check):.3f} on {check.epoch_rows} photographs that it never saw")


if __name__ == "__main__":
    main()
