"""The loader in programs that train: Lightning, Hugging Face's Trainer, JAX. Each sees every row once an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning
import pytest
import torch
import transformers
from torch.utils.data import DataLoader

import cenote
import cenote.torch

ROWS = 40


@pytest.fixture
def points(tmp_path: Path) -> Iterator[cenote.Table]:
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        table = lake.create_table("points", {"id": int, "at": cenote.vector(2)}, primary_key="id")
        table.upsert({"id": range(ROWS), "at": [[id / ROWS, -id / ROWS] for id in range(ROWS)]})
        yield table


def test_lightning_trains_on_a_loader(points: cenote.Table, tmp_path: Path) -> None:
    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.seen: list[list[int]] = []

        def training_step(self, batch, step):
            if step == 0:
                self.seen.append([])
            self.seen[-1] += batch["id"].tolist()
            return self.layer(batch["at"]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Model()
    dataset = cenote.torch.IterableDataset(points.loader(batch_size=7, shuffle=True, output="torch"))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(dataset, batch_size=None))
    first, second = model.seen
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second


def test_the_trainer_of_hugging_face_takes_the_map_style_dataset(points: cenote.Table, tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.seen: list[int] = []

        def forward(self, id, at):
            self.seen += id.tolist()
            return {"loss": self.layer(at).square().mean()}

    model = Model()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=7,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    dataset = cenote.torch.Dataset(points.loader(output="torch"))
    transformers.Trainer(model=model, args=arguments, train_dataset=dataset).train()
    assert sorted(model.seen[:ROWS]) == sorted(model.seen[ROWS:]) == list(range(ROWS))


def test_batches_are_arrays_of_jax(points: cenote.Table) -> None:
    import jax

    loss = jax.jit(lambda at: (at**2).sum())
    batches = list(points.loader(batch_size=16, output="jax"))
    assert all(isinstance(batch["at"], jax.Array) for batch in batches)
    expected = sum(2 * (id / ROWS) ** 2 for id in range(ROWS))
    assert abs(sum(float(loss(batch["at"])) for batch in batches) - expected) < 1e-3
