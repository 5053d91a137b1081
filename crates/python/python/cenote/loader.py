"""The training loader."""

from __future__ import annotations

import importlib
import json
import operator
import os
import sys
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cenote import _native
from cenote._async import in_thread
from cenote.errors import InvalidInputError
from cenote.lake import Table, column_names
from cenote.op import Transform

Output = Literal["tensor", "numpy", "torch", "jax", "arrow"]
"""The type of a batch's columns."""


class Shuffle(NamedTuple):
    """The shuffle of rows: `seed` selects the order; `window` is the number of bytes of rows that are mixed at a time,
    such as `"1 GiB"` (default: all). A window reads neighbouring rows together, which is faster, but mixes less.

    A seed has 64 bits: 0 to 2**64 - 1, or a negative number down to -2**63, which stands for itself plus 2**64."""

    seed: int = 0
    window: str | int | None = None


class Buckets(NamedTuple):
    """Groups samples of similar length, so that batches need little padding.

    `column` gives the lengths: a number is the length itself; a text, bytes or a list counts by its own length. Every
    `window` consecutive samples are sorted by length and cut into runs of `run`, and the runs are shuffled. The best
    `run` is the number of samples that all ranks take in one step, or a multiple of it. The order does not depend on
    batches and ranks, so a loader of another shape can resume it."""

    column: str
    window: int = 8192
    run: int = 256


class Source(NamedTuple):
    """A table in a mixture: its rows that satisfy `where`, at `version`; `weight` is its share of the samples."""

    table: Table
    where: str | None = None
    version: int | str | None = None
    weight: float | None = None


class _Options(NamedTuple):
    """The options of a loader, as `_native.Loader` reads and checks them. `None` stands for the default."""

    columns: Sequence[str] | None
    batch_size: int
    seed: int | None
    window: str | int | None
    buckets: Buckets | None
    rank: int
    world_size: int
    last: str
    transforms: Sequence[tuple[str, Sequence[Transform]]]
    follow: bool
    epoch_rows: int | None
    on_error: str
    prefetch: str | int
    threads: int
    worker: int = 0
    workers: int = 1


class Batch(dict[str, Any]):
    """The rows of one step, as a mapping from column to values of the loader's `output` type. Texts and other values
    that are not numbers are Arrow arrays, with `__arrow_c_array__` and `to_pylist()`.

    The type of a column's values depends only on the type of the column. A row without a number has NaN there, or 0 in
    a column of integers: see `valid`."""

    epoch: int = 0
    step: int = 0
    rows: int = 0
    valid: Mapping[str, Any] = {}
    """Whether each row has a value, for every nullable column of numbers or vectors of numbers: bools in the loader's
    `output` type (for `tensor`: a list). Arrow arrays have their own nulls."""
    repeated: int = 0
    """The number of rows at the end that repeat earlier rows to fill the batch."""
    errors: Sequence[tuple[int, str]] = ()
    """The rows whose media could not be decoded, with the reasons; their tensors are zero."""


class Loader:
    """Gives the batches of one epoch after the other: `for batch in loader` gives the rest of the current epoch, and
    the next `for` the next epoch.

    A loader is a cursor. A `for` that stops in the middle of an epoch is continued by the next one, and `state_dict`
    returns the position; a loader with other batches, ranks and workers resumes from it with exactly the rows that are
    left. A state taken after the last batch of an epoch has no rows left, so the first `for` after it is empty. A batch
    that was not delivered because of Ctrl-C, an error or a cancelled task does not count, and comes again.

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

    Threads read and decode rows ahead of the training loop, up to `prefetch` bytes. Threads that share an epoch share
    an iterator: `batches = iter(loader)` gives each batch to one of them, and ends for all. In a child of a `fork`, and
    when it is unpickled, a loader opens itself again at the same position and the same versions.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: _Options,
        *,
        output: Output = "tensor",
        device: str | None = None,
        state: str | None = None,
        agreed: bool = False,
    ) -> None:
        if output not in ("tensor", "numpy", "torch", "jax", "arrow"):
            raise InvalidInputError(f"output is tensor, numpy, torch, jax or arrow, found {output!r}")
        if device is not None and output != "torch":
            raise InvalidInputError('a device needs output="torch"; other arrays are in the memory of the CPU')
        if not sources:
            raise InvalidInputError("a loader needs at least one source")
        self._sources = list(sources)
        self._options = options
        self._output: Output = output
        self._device = device
        self._state = state
        self._agreed = agreed or options.world_size == 1 or all(source.version is not None for source in sources)
        self._created_in = os.getpid()
        self._opened_in = -1
        self._moves = 0
        versions = None if self._agreed or state is not None else self._agree()
        self._native_loader(versions)
        # A tag may move: other processes read the version that it named when the loader was opened.
        self._sources = [
            source if source.version is None else source._replace(version=read["version"])
            for source, read in zip(self._sources, self.state_dict()["sources"])
        ]
        _open_loaders.add(self)

    def _native_loader(self, versions: Sequence[int] | None = None) -> _native.Loader:
        """Returns the native loader of this process, and opens it first where this process has none yet."""
        if self._opened_in != os.getpid():
            sources = [
                (
                    source.table._native_table(),  # pyright: ignore[reportPrivateUsage]
                    _version(source.version),
                    source.where,
                    source.weight,
                )
                for source in self._sources
            ]
            if self._state is not None:
                versions = _versions(json.loads(self._state))
            inner = _native.Loader(sources, self._options, versions)
            if self._state is not None:
                inner.restore(self._state)
            self._inner = inner
            self._opened_in = os.getpid()
        return self._inner

    def _agree(self) -> Sequence[int] | None:
        """Returns the versions that are newest for rank 0, the same on all ranks; `None` where ranks cannot exchange
        them."""
        distributed = _distributed()
        if distributed is None or self._created_in != os.getpid():
            return None
        options = self._options
        if (distributed.get_rank(), distributed.get_world_size()) != (options.rank, options.world_size):
            return None
        versions = [[source.table.version for source in self._sources]]
        distributed.broadcast_object_list(versions, src=0)
        self._agreed = True
        return versions[0]

    def _begin(self) -> int:
        """Begins the rest of this epoch, or the next epoch, and returns the number under which its batches are asked
        for."""
        loader, versions = self._native_loader(), None
        if loader.reads_anew and self._options.world_size > 1:
            self._agreed = False
            versions = self._agree()
        self._check_agreed()
        return loader.begin(versions)

    def _check_agreed(self) -> None:
        if not self._agreed:
            rank, world_size = self._options.rank, self._options.world_size
            raise InvalidInputError(
                f"rank {rank} of {world_size} has no way to agree with the others on what to read, and each would read "
                'what is newest when it looks: give `version` (a number, or "tag:NAME"), load a state, or set up '
                "torch.distributed before the loader is opened"
            )

    def _remember(self) -> None:
        """Saves the position before a fork, so that the child resumes there."""
        if self._opened_in == os.getpid():
            self._state = self._inner.state()

    def _where(self) -> str:
        """Returns the position as JSON; in a child of a fork without opening the loader."""
        if self._opened_in != os.getpid() and self._state is not None:
            return self._state
        return self._native_loader().state()

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._where()
        return _rebuild, (self._sources, self._options, self._output, self._device, state, self._agreed, self._moves)

    def shard(self, worker: int, workers: int) -> Loader:
        """Returns this loader for one of several workers of this rank, which take its batches in turn, at the same
        position."""
        options = self._options._replace(worker=worker, workers=workers)
        return Loader(
            self._sources,
            options,
            output=self._output,
            device=self._device,
            state=self._where(),
            agreed=self._agreed,
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = _Batches(self)
        batches.begin()
        return batches

    def __aiter__(self) -> AsyncIterator[Batch]:
        return _Batches(self)

    def _convert(self, native: _native.Batch) -> Batch:
        tensors = {name: native.tensor(name) for name in native.columns()}
        batch = Batch({name: self._column(native, name, tensor) for name, tensor in tensors.items()})
        if self._output != "arrow":
            valid = {name: tensor.valid for name, tensor in tensors.items() if tensor and tensor.valid is not None}
            batch.valid = {name: self._mask(rows) for name, rows in valid.items()}
        batch.epoch, batch.step, batch.rows = native.epoch, native.step, len(native)
        batch.repeated, batch.errors = native.repeated, native.errors
        return batch

    def _mask(self, valid: list[bool]) -> Any:
        if self._output == "tensor":
            return valid
        if self._output == "torch":
            torch: Any = importlib.import_module("torch")
            return torch.tensor(valid, dtype=torch.bool, device=self._device)
        numbers: Any = importlib.import_module("numpy" if self._output == "numpy" else "jax.numpy")
        return numbers.array(valid, dtype=bool)

    def _column(self, batch: _native.Batch, name: str, tensor: _native.Tensor | None) -> Any:
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
        """Returns the number of batches of a whole epoch."""
        return self._native_loader().epoch_batches

    @property
    def batches_left(self) -> int:
        """The number of batches left in this epoch."""
        return self._native_loader().batches_left

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, counted from 0."""
        return self._native_loader().epoch

    @property
    def epoch_rows(self) -> int:
        """The number of samples of an epoch, over all ranks."""
        return self._native_loader().epoch_rows

    @property
    def rows(self) -> int:
        """The number of rows that `take` can read by number."""
        return self._native_loader().rows

    @property
    def packed(self) -> list[str]:
        """The packed columns, which have blocks in place of rows."""
        return [column for column, steps in self._options.transforms if any(step.name == "pack" for step in steps)]

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch. A loader that follows its tables reads their newest versions, unless it is
        already there."""
        loader = self._native_loader()
        loader.set_epoch(epoch)
        self._moves += 1
        if loader.reads_anew:
            self._begin()

    def take(self, rows: Sequence[int]) -> Batch:
        """Returns the rows with these numbers, counted in the order of keys, as a batch: for samplers that choose rows
        themselves."""
        self._check_agreed()
        return self._convert(self._native_loader().take(list(rows)))

    def state_dict(self) -> dict[str, Any]:
        """Returns the position as plain data, which JSON and `torch.save` can store. Batches that were made ahead but
        not given do not count."""
        return json.loads(self._where())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to the position in `state`. A table without a given version goes back to the version in the state; with
        `follow`, until the epoch is over. Raises `InvalidInputError` for a state of other tables, filters, versions or
        another seed."""
        self._restore(state)
        # All ranks load one state, or states of one moment.
        self._agreed = True

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._native_loader().restore(json.dumps(dict(state)))
        self._moves += 1

    def stats(self) -> dict[str, Any]:
        """Returns what was given and what it cost: `batches`, `rows`, `errors`, `bytes`; `wait_seconds`, the time that
        the consumer waited, which shows whether training starves; `read_seconds` and `decode_seconds` over all batches;
        `ready_bytes`. For a remote lake, `cache_hit_bytes` were read from the local disk and `cache_missed_bytes` from
        the remote store, by all its readers since it was opened."""
        return self._native_loader().stats()

    def __repr__(self) -> str:
        tables = ", ".join(source.table.name for source in self._sources)
        return f"<cenote.Loader of {tables}: {self.epoch_rows} samples, {len(self)} batches an epoch>"


class _Batches(Iterator[Batch], AsyncIterator[Batch]):
    """The rest of one epoch, for threads or tasks that share it. Unlike a generator, it survives an exception raised in
    it, and at its end it does not run into the next epoch."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._begun = (-1, -1)
        """The process that began the epoch, and the epoch's number there."""

    def begin(self) -> tuple[_native.Loader, int]:
        """Returns the native loader and the number under which it gives the batches."""
        if self._begun[0] != os.getpid():
            self._begun = (os.getpid(), self._loader._begin())  # pyright: ignore[reportPrivateUsage]
        return self._loader._native_loader(), self._begun[1]  # pyright: ignore[reportPrivateUsage]

    def _ready(self) -> bool:
        native, iteration = self.begin()
        return native.ready(iteration)

    def _give(self) -> Batch | None:
        native, iteration = self.begin()
        self._loader._moves += 1  # pyright: ignore[reportPrivateUsage]
        return native.give(iteration, self._loader._convert)  # pyright: ignore[reportPrivateUsage]

    def __next__(self) -> Batch:
        while self._ready():
            # Another thread may take the batch first.
            if (batch := self._give()) is not None:
                return batch
        raise StopIteration

    async def __anext__(self) -> Batch:
        while await in_thread(self._ready):
            # A task that is cancelled while it waits has taken nothing.
            if (batch := self._give()) is not None:
                return batch
        raise StopAsyncIteration


_open_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


def _remember_all() -> None:
    for loader in list(_open_loaders):
        loader._remember()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(before=_remember_all)


def _rebuild(
    sources: Sequence[Source],
    options: _Options,
    output: Output,
    device: str | None,
    state: str,
    agreed: bool,
    moves: int,
) -> Loader:
    loader = Loader(sources, options, output=output, device=device, state=state, agreed=agreed)
    loader._moves = moves  # pyright: ignore[reportPrivateUsage]
    return loader


def _versions(state: Mapping[str, Any]) -> list[int] | None:
    """Returns the versions in a state; `None` for an epoch that has not begun, which reads the newest."""
    return None if state.get("unread") else [source["version"] for source in state["sources"]]


def _distributed() -> Any:
    """Returns `torch.distributed` where it is set up, else `None`; also `None` in workers of a `DataLoader`, whose copy
    cannot communicate."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return None if torch.utils.data.get_worker_info() else torch.distributed


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns the rank of this process and the number of ranks: as given, or from `torch.distributed`, or from the
    environment."""
    if rank is not None and world_size is not None:
        return rank, world_size
    if (rank is None) != (world_size is None):
        raise InvalidInputError("rank and world_size come together: give both, or none and they are found")
    if distributed := _distributed():
        return distributed.get_rank(), distributed.get_world_size()
    given = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if given[0] is None or given[1] is None:
        return 0, 1
    try:
        return int(given[0]), int(given[1])
    except ValueError:
        raise InvalidInputError(
            f"RANK and WORLD_SIZE are numbers, found {given[0]!r} and {given[1]!r} in the environment"
        ) from None


def _shuffle(shuffle: Any) -> Shuffle | None:
    if shuffle is True:
        return Shuffle()
    if shuffle is None or shuffle is False:
        return None
    if not isinstance(shuffle, Shuffle):
        raise TypeError(f"shuffle is True, False or cenote.Shuffle(seed), found {shuffle!r}")
    if isinstance(shuffle.seed, bool):
        raise TypeError(f"a seed is a whole number, found {shuffle.seed!r}")
    seed = operator.index(shuffle.seed)
    if not -(2**63) <= seed < 2**64:
        raise InvalidInputError(f"a seed has 64 bits, from -2**63 to 2**64 - 1, found {seed}")
    return shuffle._replace(seed=seed % 2**64)


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
    rank: int | None = None,
    world_size: int | None = None,
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
    """Opens a loader over one table or a mixture of several.

    - `columns`: the columns of the batches (default: all). `transform` applies to the only media column among them, or
      by column, as in `{"tokens": [cenote.op.pack(2048)]}`.
    - `shuffle`: without it, rows come in the order of their keys.
    - `buckets`: groups rows of similar length; the name of a column stands for `Buckets` of that column.
    - `rank`, `world_size`: the number of this process among those that train together, and how many there are (default:
      from `torch.distributed` where it is set up, else the environment's `RANK` and `WORLD_SIZE`, else a single
      process). All ranks read one version: the one given by each source or by a state, or the newest one for rank 0
      where `torch.distributed` can share it; otherwise the first batch is refused. All ranks make the same number of
      steps.
    - `last`: the treatment of the last step's rows when they do not fill a batch on every rank. `short` deals them out
      evenly, so every row comes once and batches may be smaller, or empty where there are fewer rows than ranks; `drop`
      leaves them out; `pad` repeats rows from the start of the epoch and counts them in `batch.repeated`.
    - `epoch_rows`: the number of samples that sources with weights share in an epoch (default: the number of all rows).
      Each source continues with its own rows from epoch to epoch, and starts over once all have come.
    - `follow`: whether each epoch reads the newest version, rather than the one that the loader was opened at.
    - `on_error`: `raise` names the row whose picture cannot be decoded; `zero` gives zeros, and lists the row in
      `batch.errors`.
    - `output`: `tensor` (DLPack and numpy's array interface), `numpy`, `torch` (on `device`), `jax` or `arrow`.
    - `prefetch`: bytes of batches made ahead.
    - `threads`: threads that make batches (default: the cores, divided among the workers of the rank). Each reads the
      next batch while it decodes one.
    """
    given = [source if isinstance(source, Source) else Source(source) for source in sources]
    rank, world_size = _ranks(rank, world_size)
    order = _shuffle(shuffle)
    options = _Options(
        columns=column_names(columns),
        batch_size=batch_size,
        seed=None if order is None else order.seed,
        window=None if order is None else order.window,
        buckets=Buckets(buckets) if isinstance(buckets, str) else buckets,
        rank=rank,
        world_size=world_size,
        last=last,
        transforms=_transforms(given, columns, transform),
        follow=follow,
        epoch_rows=epoch_rows,
        on_error=on_error,
        prefetch=prefetch,
        threads=threads,
    )
    return Loader(given, options, output=output, device=device)


def _transforms(
    sources: Sequence[Source],
    columns: Sequence[str] | None,
    transform: Sequence[Transform] | Mapping[str, Sequence[Transform]],
) -> list[tuple[str, list[Transform]]]:
    """Returns the steps by column."""
    if not transform:
        return []
    if isinstance(transform, Mapping):
        return [(column, list(steps)) for column, steps in transform.items()]
    media = [name for name, kind, _, is_media in sources[0].table.schema.fields() if is_media or "Binary" in kind]
    media = [name for name in media if columns is None or name in columns]
    if len(media) != 1:
        found = ", ".join(media) or "none"
        raise InvalidInputError(f"transforms are for one media column, found {found}: name it, as {{column: [...]}}")
    return [(media[0], list(transform))]


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the state of a rank from the states of all its workers at one moment; a loader of any shape can resume
    from it."""
    return json.loads(_native.merge_states([json.dumps(dict(state)) for state in states]))
