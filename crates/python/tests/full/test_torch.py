"""The loader in real PyTorch: datasets, workers, and the state that torchdata keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pyarrow
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import cenote
import cenote.torch


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[cenote.Table]:
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        table = lake.create_table("numbers", {"id": int, "at": cenote.vector(2)}, primary_key="id")
        table.upsert({"id": range(100), "at": [[id, -id] for id in range(100)]})
        yield table


def loader(table: cenote.Table) -> cenote.Loader:
    return table.loader(batch_size=7, shuffle=cenote.Shuffle(3), output="torch")


def ids(batches) -> list[int]:
    return [id for batch in batches for id in batch["id"].tolist()]


def test_batches_are_tensors(numbers: cenote.Table) -> None:
    batch = next(iter(loader(numbers)))
    assert batch["at"].shape == (7, 2) and batch["at"].dtype == torch.float32
    assert torch.equal(batch["at"][:, 0], batch["id"].to(torch.float32))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_data_loader_gives_the_loaders_own_order(numbers: cenote.Table, workers: int, context: str) -> None:
    expected = ids(loader(numbers))
    dataset = cenote.torch.IterableDataset(loader(numbers))
    seen = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context if workers else None
    )
    assert ids(seen) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_data_loader_resumes(numbers: cenote.Table, workers: int) -> None:
    expected = ids(loader(numbers))

    def stateful() -> StatefulDataLoader:
        return StatefulDataLoader(cenote.torch.IterableDataset(loader(numbers)), batch_size=None, num_workers=workers)

    first = stateful()
    batches = iter(first)
    taken = ids(next(batches) for _ in range(5))
    state = first.state_dict()
    second = stateful()
    second.load_state_dict(state)
    assert taken + ids(second) == expected


def test_columns_that_are_no_numbers_come_from_workers_too(tmp_path: Path) -> None:
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        words = lake.create_table("words", {"id": int, "word": str}, primary_key="id")
        words.upsert({"id": range(10), "word": [f"w{id}" for id in range(10)]})
        dataset = cenote.torch.IterableDataset(words.loader(batch_size=4, output="torch"))
        batches = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert [batch["word"].to_pylist() for batch in batches] == [
        [f"w{id}" for id in ids] for ids in (range(4), range(4, 8), range(8, 10))
    ]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_large_values_come_whole_from_workers(tmp_path: Path, context: str) -> None:
    """They are sent as shared memory, and stay when the workers are gone."""
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        table = lake.create_table(
            "t", {"id": int, "picture": cenote.Image, "at": cenote.vector(30_000)}, primary_key="id"
        )
        pictures = [None if id == 5 else bytes([id]) * (50_000 * id) for id in range(9)]
        table.upsert(
            {"id": range(9), "picture": pictures, "at": numpy.arange(9, dtype="float32").repeat(30_000).reshape(9, -1)}
        )
        dataset = cenote.torch.IterableDataset(table.loader(batch_size=4, output="tensor"))
        batches = list(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context))
    assert [picture for batch in batches for picture in batch["picture"].to_pylist()] == pictures
    for batch, ids in zip(batches, (range(4), range(4, 8), range(8, 9)), strict=True):
        assert numpy.array_equal(batch["at"], numpy.array(ids, dtype="float32").repeat(30_000).reshape(-1, 30_000))


def test_a_map_style_dataset_takes_a_sampler(numbers: cenote.Table) -> None:
    dataset = cenote.torch.Dataset(numbers.loader(output="torch"))
    assert len(dataset) == 100
    batches = DataLoader(dataset, batch_size=8, sampler=range(99, -1, -1))
    assert ids(batches) == list(range(99, -1, -1))


def test_blocks_have_no_number(tmp_path: Path) -> None:
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        schema = pyarrow.schema(
            [pyarrow.field("id", pyarrow.int64(), nullable=False), ("tokens", pyarrow.list_(pyarrow.int32()))]
        )
        texts = lake.create_table("texts", schema, primary_key="id")
        texts.upsert(pyarrow.table({"id": [1], "tokens": [[1, 2]]}, schema=schema))
        with pytest.raises(cenote.errors.InvalidInputError, match="packs tokens"):
            cenote.torch.Dataset(texts.loader(transform={"tokens": [cenote.op.pack(4)]}))
