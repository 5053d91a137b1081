"""Adapters for PyTorch. They yield whole batches, so a `DataLoader` around them has `batch_size=None`.

    from torch.utils.data import DataLoader
    dataset = cenote.torch.IterableDataset(photos.loader(batch_size=256, shuffle=True, output="torch"))
    for batch in DataLoader(dataset, batch_size=None):
        ...

Workers are not needed, because the loader has threads. With workers, forked or spawned, each takes its share of the
batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch.utils.data

from cenote import _native
from cenote._epochs import Notes, State
from cenote.errors import InvalidInputError
from cenote.loader import Batch, Loader


_SHARED_NUMBERS_MIN = 64 << 10
"""The least numbers of a tensor that a worker shares: fewer are cheaper to send through the pipe."""


def _reduce_tensor(tensor: _native.Tensor) -> tuple[Any, ...]:
    if math.prod(tensor.shape) < _SHARED_NUMBERS_MIN:
        return tensor.__reduce__()
    return _shared_tensor, (torch.from_dlpack(tensor), tensor.dtype, tensor.valid)


def _shared_tensor(shared: torch.Tensor, dtype: str, valid: list[bool] | None) -> _native.Tensor:
    return _native.unpickle_tensor(shared.numpy().tobytes(), list(shared.shape), dtype, valid)


# Columns are sent as tensors of their bytes: a pipe would copy the media of a batch several times.
ForkingPickler.register(_native.Tensor, _reduce_tensor)


class _Epochs:
    """The base of both datasets: a loader, and the state at which each iteration of a `DataLoader` starts."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._notes = Notes()
        self._iterations = 0

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch, also for the next iteration of a `DataLoader` with workers."""
        self.loader.set_epoch(epoch)
        self._announce()

    def _announce(self) -> None:
        self._notes.announce(self.loader._moves, self.loader.state_dict())

    def _start(self, mine: Loader, info: Any, resumed: bool = False) -> None:
        """Moves the loader of this worker to the start of this iteration, unless it was resumed."""

        def decide(parent: State, before: State | None) -> State:
            if not resumed:
                mine._restore(before or parent)
                if before:
                    mine.set_epoch(before["epoch"] + 1)
                elif parent["unread"]:
                    mine._begin()
                else:
                    # The parent may be in the middle of its epoch.
                    return parent
            return {**mine.state_dict(), "consumed": 0, "batches": 0, "worker": 0, "workers": 1}

        # Persistent workers have one seed for all iterations; others have a new one for each.
        iteration = f"{info.seed - info.id} {self._iterations}"
        self._iterations += 1
        state = self._notes.start(iteration, self.loader._moves, json.loads(self.loader._where()), decide)
        if not resumed:
            mine._restore(state)


class IterableDataset(_Epochs, torch.utils.data.IterableDataset[Batch]):
    """The batches of a loader, whose state torchdata's `StatefulDataLoader` saves.

    Each iteration of a `DataLoader` is the next epoch. With workers it is always a whole epoch, even after one that was
    left in the middle, because batches that workers had made ahead are lost with them; a `StatefulDataLoader` resumes
    in the middle.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__(loader)
        self._mine: Loader | None = None
        self._resumed = False

    def _here(self) -> Loader:
        info = torch.utils.data.get_worker_info()
        if info is None:
            return self.loader
        if self._mine is None:
            self._mine = self.loader.shard(info.id, info.num_workers)
        return self._mine

    def __iter__(self) -> Iterator[Batch]:
        loader = self._here()
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self._start(loader, info, self._resumed)
            self._resumed = False
        return iter(loader)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of this process's loader."""
        return self._here().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Moves the loader to `state`."""
        self._here().load_state_dict(state)
        self._resumed = torch.utils.data.get_worker_info() is not None
        if not self._resumed:
            self._announce()


class Dataset(_Epochs, torch.utils.data.Dataset[Any]):
    """The rows of a loader by number, for custom samplers. A whole batch (`__getitems__`) is one read.

    Random transforms depend on the epoch. Workers that a `DataLoader` makes for each iteration count epochs; without
    workers, and with persistent ones, `set_epoch` sets the epoch, as it does for samplers.

    Raises:
        InvalidInputError: The loader packs sequences, whose blocks are not rows.
    """

    def __init__(self, loader: Loader) -> None:
        if loader.packed:
            packed = ", ".join(loader.packed)
            raise InvalidInputError(f"the loader packs {packed}, and blocks are not rows: iterate over it")
        super().__init__(loader)

    def __len__(self) -> int:
        return self.loader.rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        if info is not None and self._iterations == 0:
            self._start(self.loader, info)
        batch = self.loader.take(rows)
        return [{name: values[at] for name, values in batch.items()} for at in range(batch.rows)]
