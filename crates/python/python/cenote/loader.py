"""The training loader."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cenote import _native
from cenote._async import in_thread
from cenote.errors import InvalidInputError
from cenote.lake import Table
from cenote.op import Transform

Output = Literal["tensor", "numpy", "torch", "jax", "arrow"]
"""What the columns of a batch are."""


class Shuffle(NamedTuple):
    """How rows are shuffled: `seed` names the order, and `window` is how many bytes of rows are mixed at a time, such as `"1 GiB"`
    (default: all). A window reads neighbouring rows, which storage likes, and mixes less."""

    seed: int = 0
    window: str | int | None = None


class Buckets(NamedTuple):
    """Samples of about one length next to each other, so that batches need little padding.

    `column` tells lengths: numbers are lengths themselves; of texts, bytes and lists it is that of the value. `window` samples that follow
    each other are sorted by length and cut into runs of `run`, which come in any order; as many as a step of all ranks has, or several
    times that, is best. The order does not depend on batches and ranks, so that a loader of another shape can go on with it."""

    column: str
    window: int = 8192
    run: int = 256


class Source(NamedTuple):
    """A table's part in a mixture: rows that satisfy `where`, at `version`, with a share of the samples by `weight`."""

    table: Table
    where: str | None = None
    version: int | str | None = None
    weight: float | None = None


class Batch(dict[str, Any]):
    """Rows for one step: column → values, as the loader's `output` says. Columns of texts and other values that are no numbers are
    Arrow arrays, with `__arrow_c_array__` and `to_pylist()`."""

    epoch: int = 0
    step: int = 0
    rows: int = 0
    repeated: int = 0
    """How many of the last rows are repeats that fill the batch up."""
    errors: Sequence[tuple[int, str]] = ()
    """Rows whose media could not be decoded, and why; their tensors are zero."""


class Loader:
    """Batches of one epoch after the other: `for batch in loader` gives what is left of the epoch, and the next `for` the next one.

    It is a cursor. Whoever stops in the middle goes on there with the next `for`, and `state_dict` says where that is; a loader with
    other batches, ranks and workers goes on from it with exactly the rows that are left. Of a state after the last batch of an epoch
    that is none, so the first `for` is empty.

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> numbers = lake.create_table("numbers", {"id": int}, primary_key="id")
    >>> _ = numbers.upsert({"id": range(10)})
    >>> loader = numbers.loader(batch_size=4, shuffle=cenote.Shuffle(seed=7), output="numpy")
    >>> first = next(iter(loader))["id"]
    >>> other = numbers.loader(batch_size=3, shuffle=cenote.Shuffle(seed=7), output="numpy")
    >>> other.load_state_dict(loader.state_dict())
    >>> sorted([*first, *(id for batch in other for id in batch["id"])]) == list(range(10))
    True

    Rows are read and decoded by threads, ahead of whoever trains, up to `prefetch` bytes. Safe to share between threads; in a child of a
    `fork`, and when it is pickled, it opens itself again where it stood.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: Mapping[str, Any],
        *,
        output: Output = "tensor",
        device: str | None = None,
        state: str | None = None,
    ) -> None:
        if output not in ("tensor", "numpy", "torch", "jax", "arrow"):
            raise InvalidInputError(f"output is tensor, numpy, torch, jax or arrow, found {output!r}")
        if device is not None and output != "torch":
            raise InvalidInputError('a device needs output="torch"; other arrays are in the memory of the CPU')
        if not sources:
            raise InvalidInputError("a loader has one source or more")
        self._sources = list(sources)
        self._options = dict(options)
        self._output: Output = output
        self._device = device
        self._state = state
        self._gave_last = False
        self._process = -1
        self._native_loader()

    def _native_loader(self) -> _native.Loader:
        if self._process != os.getpid():
            sources = [
                (source.table._native_table(), _version(source.version), source.where, source.weight)  # pyright: ignore[reportPrivateUsage]
                for source in self._sources
            ]
            self._inner = _native.Loader(sources, json.dumps(self._options))
            if self._state is not None:
                self._inner.restore(self._state)
            self._process = os.getpid()
        return self._inner

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._sources, self._options, self._output, self._device, self._native_loader().state())

    def shard(self, worker: int, workers: int) -> Loader:
        """The same loader for one of several workers of this rank, which take its batches in turn; it starts where this one stands."""
        options = {**self._options, "worker": worker, "workers": workers}
        state = self._native_loader().state()
        return Loader(self._sources, options, output=self._output, device=self._device, state=state)

    def __iter__(self) -> Iterator[Batch]:
        self._begin()
        while (batch := self._next()) is not None:
            yield batch

    async def __aiter__(self) -> AsyncIterator[Batch]:
        self._begin()
        while (batch := await in_thread(self._next)) is not None:
            yield batch

    def _begin(self) -> None:
        """Leaves an epoch behind of which all batches were given: whoever counts them never asks for its end."""
        if self._gave_last:
            self._next()

    def _next(self) -> Batch | None:
        loader = self._native_loader()
        batch = loader.next()
        self._gave_last = batch is not None and loader.batches_left == 0
        # Kept on this side too: a child of a fork goes on from it.
        self._state = loader.state()
        return None if batch is None else self._convert(batch)

    def _convert(self, native: _native.Batch) -> Batch:
        batch = Batch({name: self._column(native, name) for name in native.columns()})
        batch.epoch, batch.step, batch.rows = native.epoch, native.step, len(native)
        batch.repeated, batch.errors = native.repeated, native.errors
        return batch

    def _column(self, batch: _native.Batch, name: str) -> Any:
        tensor = batch.tensor(name)
        if self._output == "arrow" and not (tensor and tensor.shape[2:]):
            import pyarrow

            return pyarrow.array(batch.column(name))
        if tensor is None:
            return batch.column(name)
        if self._output == "numpy":
            import numpy

            return numpy.asarray(tensor)
        if self._output == "torch":
            torch: Any = importlib.import_module("torch")
            shared = torch.from_dlpack(tensor)
            return shared if self._device is None else shared.to(self._device, non_blocking=True)
        if self._output == "jax":
            jax: Any = importlib.import_module("jax")
            return jax.numpy.asarray(_numpy(tensor))
        return tensor

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._native_loader().epoch_batches

    @property
    def batches_left(self) -> int:
        """Batches that are left of this epoch."""
        return self._native_loader().batches_left

    @property
    def epoch(self) -> int:
        """Which epoch the next batch is of, from 0."""
        return self._native_loader().epoch

    @property
    def epoch_rows(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._native_loader().epoch_rows

    @property
    def rows(self) -> int:
        """Rows that can be had by number: see `take`."""
        return self._native_loader().rows

    @property
    def packed(self) -> list[str]:
        """The columns that are packed, and so have blocks in place of rows."""
        return [column for column, steps in self._options["transforms"] if any(step["name"] == "pack" for step in steps)]

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch."""
        self._native_loader().set_epoch(epoch)
        self._gave_last = False
        self._state = self._native_loader().state()

    def take(self, rows: Sequence[int]) -> Batch:
        """The rows with these numbers, in the order of keys, as a batch: for samplers that choose rows themselves."""
        return self._convert(self._native_loader().take(list(rows)))

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain data that JSON and `torch.save` keep. Batches made ahead and not given do not count."""
        return json.loads(self._native_loader().state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` says. A table that the loader was opened on at its newest version goes back to the version of the state
        until the epoch is over. Raises `InvalidInputError` for a state of other tables, filters, versions or another seed."""
        self._native_loader().restore(json.dumps(dict(state)))
        self._gave_last = False
        self._state = self._native_loader().state()

    def stats(self) -> dict[str, Any]:
        """What was given and what it cost: `batches`, `rows`, `errors`, `bytes`; `wait_seconds` that the consumer waited, which says
        whether training starves; `read_seconds` and `decode_seconds` over all batches; `ready_bytes`. Of a remote lake, since it was
        opened and by whoever reads it: `cache_hit_bytes` that were read on the local disk, `cache_missed_bytes` from afar."""
        return self._native_loader().stats()

    def __repr__(self) -> str:
        tables = ", ".join(source.table.name for source in self._sources)
        return f"<cenote.Loader of {tables}: {self.epoch_rows} samples, {len(self)} batches an epoch>"


def _rebuild(
    sources: Sequence[Source], options: Mapping[str, Any], output: Output, device: str | None, state: str
) -> Loader:
    return Loader(sources, options, output=output, device=device, state=state)


def _numpy(tensor: _native.Tensor) -> Any:
    import numpy

    return numpy.asarray(tensor)


def _version(version: int | str | None) -> str | None:
    return None if version is None else str(version)


def loader(
    *sources: Table | Source,
    columns: Sequence[str] | None = None,
    batch_size: int = 64,
    shuffle: Shuffle | bool = False,
    buckets: Buckets | str | None = None,
    rank: int = 0,
    world_size: int = 1,
    last: Literal["short", "drop", "pad"] = "short",
    transform: Sequence[Transform] | Mapping[str, Sequence[Transform]] = (),
    output: Output = "tensor",
    device: str | None = None,
    follow: bool = False,
    epoch_rows: int | None = None,
    on_error: Literal["raise", "zero"] = "raise",
    prefetch: str | int = "256 MiB",
    threads: int = 0,
) -> Loader:
    """A loader over one table or a mixture of several.

    - `columns`: what batches have (default: all). `transform` is applied to the only media column among them, or by column, as in
      `{"tokens": [cenote.op.pack(2048)]}`.
    - `shuffle`: without one, rows come in the order of their keys.
    - `buckets`: puts rows of about one length next to each other; the name of a column is `Buckets` of it.
    - `rank`, `world_size`: this process among those that train together. All make the same number of steps. `last` says what becomes of
      the rows of the last one, when they fill no batch on every rank: `short` deals them out evenly, so every row comes once and
      batches may be smaller, or empty where rows are fewer than ranks; `drop` leaves them out; `pad` repeats rows from the start of
      the epoch and says so in `batch.repeated`.
    - Sources with weights share `epoch_rows` samples an epoch (default: as many as all rows); each goes on with its own rows from epoch
      to epoch, and begins again when all came.
    - `follow`: each epoch reads the newest version, rather than the one that the loader was opened at.
    - `on_error`: `raise` names the row whose picture cannot be decoded; `zero` gives zeros, and says so in `batch.errors`.
    - `output`: `tensor` (DLPack and numpy's array interface), `numpy`, `torch` (on `device`), `jax` or `arrow`.
    - `prefetch`: bytes of batches made ahead by `threads` (default: as many as there are cores, divided among workers), each of which
      has the next batch read while it decodes one.
    """
    given = [source if isinstance(source, Source) else Source(source) for source in sources]
    if shuffle is True:
        shuffle = Shuffle()
    options: dict[str, Any] = {
        "columns": None if columns is None else list(columns),
        "batch_size": batch_size,
        "rank": rank,
        "world_size": world_size,
        "tail": last,
        "transforms": _transforms(given, columns, transform),
        "follow": follow,
        "epoch_rows": epoch_rows,
        "on_error": on_error,
        "prefetch": prefetch,
        "threads": threads,
    }
    if isinstance(buckets, str):
        buckets = Buckets(buckets)
    if buckets is not None:
        options["buckets"] = {"column": buckets.column, "window_rows": buckets.window, "run_rows": buckets.run}
    if isinstance(shuffle, Shuffle):
        options["seed"], options["window"] = shuffle.seed, shuffle.window
    return Loader(given, options, output=output, device=device)


def _transforms(
    sources: Sequence[Source],
    columns: Sequence[str] | None,
    transform: Sequence[Transform] | Mapping[str, Sequence[Transform]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    if not transform:
        return []
    if isinstance(transform, Mapping):
        return [(column, [step.to_dict() for step in steps]) for column, steps in transform.items()]
    media = [name for name, kind, _, is_media in sources[0].table.schema.fields() if is_media or "Binary" in kind]
    media = [name for name in media if columns is None or name in columns]
    if len(media) != 1:
        found = ", ".join(media) or "none"
        raise InvalidInputError(f"transforms are for one media column, found {found}: name it, as {{column: [...]}}")
    return [(media[0], [step.to_dict() for step in transform])]


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a rank from those of all its workers at one moment, from which a loader of any shape can go on."""
    return json.loads(_native.merge_states([json.dumps(dict(state)) for state in states]))
