"""Adapters for PyTorch: whole batches come out of them, so a `DataLoader` around them has `batch_size=None`.

    from torch.utils.data import DataLoader
    dataset = cenote.torch.IterableDataset(photos.loader(batch_size=256, shuffle=True, output="torch"))
    for batch in DataLoader(dataset, batch_size=None):
        ...

No workers are needed: the loader has threads. With workers (forked or spawned) each takes its share of the batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch.utils.data

from cenote import _native
from cenote.errors import InvalidInputError
from cenote.loader import Batch, Loader


_SHARED_NUMBERS_MIN = 64 << 10
"""Fewer cost less to send through the pipe from a worker than to share."""


def _reduce_tensor(tensor: _native.Tensor) -> tuple[Any, ...]:
    if math.prod(tensor.shape) < _SHARED_NUMBERS_MIN:
        return tensor.__reduce__()
    return _shared_tensor, (torch.from_dlpack(tensor), tensor.dtype, tensor.valid)


def _shared_tensor(shared: torch.Tensor, dtype: str, valid: list[bool] | None) -> _native.Tensor:
    return _native.unpickle_tensor(shared.numpy().tobytes(), list(shared.shape), dtype, valid)


# Columns are sent as tensors of their bytes: media of a batch would be copied time and again on their way through the pipe.
ForkingPickler.register(_native.Tensor, _reduce_tensor)


class IterableDataset(torch.utils.data.IterableDataset[Batch]):
    """The batches of a loader. Its state is kept by torchdata's `StatefulDataLoader`."""

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.loader = loader
        self._mine: Loader | None = None

    def _here(self) -> Loader:
        info = torch.utils.data.get_worker_info()
        if info is None:
            return self.loader
        if self._mine is None:
            self._mine = self.loader.shard(info.id, info.num_workers)
        return self._mine

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Where this process's loader stands."""
        return self._here().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` says."""
        self._here().load_state_dict(state)


class Dataset(torch.utils.data.Dataset[Any]):
    """The rows of a loader by number, for samplers of one's own. Fetches of a whole batch at once (`__getitems__`) are one read.

    Raises `InvalidInputError` for a loader that packs sequences: blocks are no rows.
    """

    def __init__(self, loader: Loader) -> None:
        if loader.packed:
            raise InvalidInputError(f"the loader packs {', '.join(loader.packed)}, and blocks are no rows: iterate over it")
        self.loader = loader

    def __len__(self) -> int:
        return self.loader.rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        batch = self.loader.take(rows)
        return [{name: values[at] for name, values in batch.items()} for at in range(batch.rows)]
