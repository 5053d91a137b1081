"""The datasets for PyTorch, with PyTorch or its stand-in: each iteration of a `DataLoader` is the next epoch."""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy
import pytest

if importlib.util.find_spec("torch") is None:
    sys.path.insert(0, str(Path(__file__).parent / "stand_in"))

from torch.utils.data import DataLoader

import cenote
import cenote.torch
from cenote.errors import InvalidInputError

WAYS = [(0, "fork", False), (3, "fork", False), (2, "spawn", False), (2, "fork", True)]
"""The number of workers, how they are started, and whether they are persistent."""


def opened(table: cenote.Table, **options) -> cenote.torch.IterableDataset:
    return cenote.torch.IterableDataset(
        table.loader(["id"], batch_size=7, shuffle=cenote.Shuffle(3), output="numpy", **options)
    )


def data_loader(dataset, way, **options) -> DataLoader:
    workers, context, stay = way
    return DataLoader(dataset, num_workers=workers, multiprocessing_context=context, persistent_workers=stay, **options)


def ids(batches) -> list[int]:
    return [int(id) for batch in batches for id in batch["id"]]


def epochs(table: cenote.Table, count: int) -> list[list[int]]:
    loader = opened(table).loader
    return [ids(loader) for _ in range(count)]


@pytest.fixture(autouse=True)
def nothing_left():
    def notes() -> set[str]:
        return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("cenote-epochs-")}

    before = notes()
    yield
    gc.collect()
    assert notes() <= before


@pytest.mark.parametrize("way", WAYS)
def test_each_iteration_is_the_next_epoch(numbers: cenote.Table, way) -> None:
    expected = epochs(numbers, 6)
    assert len({tuple(epoch) for epoch in expected}) == 6
    dataset = opened(numbers)
    batches = data_loader(dataset, way)
    assert [ids(batches) for _ in range(3)] == expected[:3]
    dataset.set_epoch(5)
    assert ids(batches) == expected[5]
    dataset.set_epoch(0)
    assert [ids(batches) for _ in range(2)] == expected[:2]
    # The same epoch again, as requested.
    dataset.set_epoch(0)
    assert ids(batches) == expected[0]
    dataset.load_state_dict(dataset.state_dict() | {"epoch": 3})
    assert [ids(batches) for _ in range(2)] == expected[3:5]


def test_what_is_left_in_the_middle_is_over_with_its_workers(numbers: cenote.Table) -> None:
    expected = epochs(numbers, 4)
    batches = data_loader(opened(numbers), (2, "fork", False))
    left = iter(batches)
    assert ids([next(left)]) == expected[0][:7]
    del left
    assert ids(batches) == expected[1]
    # The parent's own reading counts too, and workers resume from there.
    dataset = opened(numbers)
    first = ids([next(iter(dataset))])
    batches = data_loader(dataset, (2, "fork", False))
    assert first + ids(batches) == expected[0]
    assert ids(batches) == expected[1]


def test_data_loaders_at_once_do_not_mix_their_epochs(numbers: cenote.Table) -> None:
    expected = epochs(numbers, 3)
    dataset = opened(numbers)
    first, second = (data_loader(dataset, (2, "fork", False)) for _ in range(2))
    together = [ids([batch]) for pair in zip(first, second, strict=True) for batch in pair]
    assert sorted([sum(together[::2], []), sum(together[1::2], [])]) == sorted(expected[:2])
    assert ids(first) == expected[2]


@pytest.mark.parametrize("way", WAYS)
def test_workers_that_follow_agree_on_a_version(numbers: cenote.Table, way) -> None:
    batches = data_loader(opened(numbers, follow=True), way)
    for epoch in range(3):
        expected, seen = len(numbers), []
        for batch in batches:
            seen += ids([batch])
            numbers.upsert({"id": [1000 * (epoch + 1) + len(seen)]})
        assert len(seen) == len(set(seen)) == expected


def test_workers_of_ranks_that_did_not_agree_are_refused(numbers: cenote.Table) -> None:
    dataset = opened(numbers, rank=0, world_size=2)
    for way in WAYS:
        with pytest.raises(InvalidInputError, match="no way to agree"):
            ids(data_loader(dataset, way))
        with pytest.raises(InvalidInputError, match="no way to agree"):
            ids(data_loader(opened(numbers, rank=0, world_size=2, follow=True), way))
    assert (
        len(ids(data_loader(opened(numbers, rank=0, world_size=2, version=numbers.version), (2, "fork", False)))) == 50
    )


@pytest.mark.parametrize("way", [(3, "fork", False), (2, "fork", True)])
def test_a_worker_that_is_resumed_goes_on_and_then_to_the_next_epoch(numbers: cenote.Table, way) -> None:
    expected = epochs(numbers, 4)
    workers = way[0]

    class Resumed(cenote.torch.IterableDataset):
        """Loads the state before the first iteration, as torchdata does in a worker."""

        states: dict[int, dict] = {}

        def __iter__(self):
            from torch.utils.data import get_worker_info

            if self.states and self._iterations == 0:
                self.load_state_dict(self.states[get_worker_info().id])
            return super().__iter__()

    loader = opened(numbers).loader
    loader.set_epoch(2)
    shards = [loader.shard(worker, workers) for worker in range(workers)]
    taken = ids(next(iter(shards[step % workers])) for step in range(workers * 2))
    dataset = Resumed(opened(numbers).loader)
    dataset.states = {worker: shard.state_dict() for worker, shard in enumerate(shards)}
    batches = data_loader(dataset, way)
    assert taken + ids(batches) == expected[2]
    dataset.states = {}
    assert ids(batches) == expected[3]


@pytest.mark.parametrize("way", WAYS[1:3])
def test_rows_by_number_look_different_in_the_next_epoch(lake: cenote.Lake, way) -> None:
    image = pytest.importorskip("PIL.Image")
    table = lake.create_table("noise", {"id": int, "picture": cenote.Image}, primary_key="id")
    rows = []
    for id in range(4):
        out = io.BytesIO()
        image.effect_noise((64, 48), 90).convert("RGB").save(out, "PNG")
        rows.append({"id": id, "picture": out.getvalue()})
    table.upsert(rows)
    steps = [cenote.op.decode_image(), cenote.op.random_resized_crop(16)]
    dataset = cenote.torch.Dataset(table.loader(transform=steps, shuffle=True, output="numpy"))
    batches = data_loader(dataset, way, sampler=[[0, 1], [2, 3]])

    def pictures() -> list[bytes]:
        return [item["picture"].tobytes() for batch in batches for item in batch]

    first, second = pictures(), pictures()
    assert not set(first) & set(second)
    dataset.set_epoch(1)
    assert pictures() == second
    assert numpy.asarray(dataset[0]["picture"]).tobytes() == second[0]
