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
from cenote.lake import Table
from cenote.op import Transform

Output = Literal["tensor", "numpy", "torch", "jax", "arrow"]
"""What the columns of a batch are."""


class Shuffle(NamedTuple):
    """How rows are shuffled: `seed` names the order, and `window` is how many bytes of rows are mixed at a time, such as `"1 GiB"`
    (default: all). A window reads neighbouring rows, which storage likes, and mixes less.

    A seed has 64 bits: from 0 to 2**64 - 1, or a negative one down to -2**63, which means itself plus 2**64."""

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
    Arrow arrays, with `__arrow_c_array__` and `to_pylist()`.

    What a column is depends on its type alone. Where a row has no number there is NaN, or 0 in a column of integers: see `valid`."""

    epoch: int = 0
    step: int = 0
    rows: int = 0
    valid: Mapping[str, Any] = {}
    """Whether each row has a value, for every column of numbers, or vectors of them, that may hold nulls: as bools in what the
    loader's `output` says (in `tensor`: a list). Arrow arrays have their own nulls."""
    repeated: int = 0
    """How many of the last rows are repeats that fill the batch up."""
    errors: Sequence[tuple[int, str]] = ()
    """Rows whose media could not be decoded, and why; their tensors are zero."""


class Loader:
    """Batches of one epoch after the other: `for batch in loader` gives what is left of the epoch, and the next `for` the next one.

    It is a cursor. Whoever stops in the middle goes on there with the next `for`, and `state_dict` says where that is; a loader with
    other batches, ranks and workers goes on from it with exactly the rows that are left. Of a state after the last batch of an epoch
    that is none, so the first `for` is empty. What Ctrl-C, an error or a cancelled task kept from arriving does not count, and comes
    again.

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

    Rows are read and decoded by threads, ahead of whoever trains, up to `prefetch` bytes. Threads that share an epoch share an iterator:
    `batches = iter(loader)` gives each batch to one of them, and ends for all. In a child of a `fork`, and when it is pickled, a loader
    opens itself again where it stood, at the versions that it read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: Mapping[str, Any],
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
            raise InvalidInputError("a loader has one source or more")
        self._sources = list(sources)
        self._options = dict(options)
        self._output: Output = output
        self._device = device
        self._state = state
        self._agreed = agreed or self._options["world_size"] == 1 or all(source.version is not None for source in sources)
        self._maker = os.getpid()
        self._process = -1
        self._moves = 0
        versions = None if self._agreed or state is not None else self._agree()
        self._native_loader(versions)
        # What a tag named when the loader was opened, it reads in other processes too.
        self._sources = [
            source if source.version is None else source._replace(version=read["version"])
            for source, read in zip(self._sources, self.state_dict()["sources"])
        ]
        _open.add(self)

    def _native_loader(self, versions: Sequence[int] | None = None) -> _native.Loader:
        if self._process != os.getpid():
            sources = [
                (source.table._native_table(), _version(source.version), source.where, source.weight)  # pyright: ignore[reportPrivateUsage]
                for source in self._sources
            ]
            if self._state is not None:
                versions = _versions(json.loads(self._state))
            inner = _native.Loader(sources, json.dumps(self._options), versions)
            if self._state is not None:
                inner.restore(self._state)
            self._inner = inner
            self._process = os.getpid()
        return self._inner

    def _agree(self) -> Sequence[int] | None:
        """The versions that are newest for rank 0, for all ranks; `None` where there is no way to tell them."""
        distributed = _distributed()
        mine = (self._options["rank"], self._options["world_size"])
        if distributed is None or self._maker != os.getpid() or (distributed.get_rank(), distributed.get_world_size()) != mine:
            return None
        versions = [[source.table.version for source in self._sources]]
        distributed.broadcast_object_list(versions, src=0)
        self._agreed = True
        return versions[0]

    def _begin(self) -> int:
        """What the batches that are left of this epoch, or of the next one, are asked for by."""
        loader, versions = self._native_loader(), None
        if loader.reads_anew and self._options["world_size"] > 1:
            self._agreed = False
            versions = self._agree()
        self._check_agreed()
        return loader.begin(versions)

    def _check_agreed(self) -> None:
        if not self._agreed:
            rank, world_size = self._options["rank"], self._options["world_size"]
            raise InvalidInputError(
                f"rank {rank} of {world_size} has no way to agree with the others on what to read, and each would read what is newest when "
                'it looks: give `version` (a number, or "tag:NAME"), load a state, or set up torch.distributed before the loader is opened'
            )

    def _remember(self) -> None:
        """Keeps where the loader stands on this side, before a fork: the child goes on from there."""
        if self._process == os.getpid():
            self._state = self._inner.state()

    def _where(self) -> str:
        """Where the loader stands; in a child of a fork without opening it."""
        if self._process != os.getpid() and self._state is not None:
            return self._state
        return self._native_loader().state()

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._where()
        return _rebuild, (self._sources, self._options, self._output, self._device, state, self._agreed, self._moves)

    def shard(self, worker: int, workers: int) -> Loader:
        """The same loader for one of several workers of this rank, which take its batches in turn; it starts where this one stands."""
        options = {**self._options, "worker": worker, "workers": workers}
        return Loader(self._sources, options, output=self._output, device=self._device, state=self._where(), agreed=self._agreed)

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
        """Goes to the start of an epoch. A loader that follows its tables reads their newest versions, unless it stands there already."""
        loader = self._native_loader()
        loader.set_epoch(epoch)
        self._moves += 1
        if loader.reads_anew:
            self._begin()

    def take(self, rows: Sequence[int]) -> Batch:
        """The rows with these numbers, in the order of keys, as a batch: for samplers that choose rows themselves."""
        self._check_agreed()
        return self._convert(self._native_loader().take(list(rows)))

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain data that JSON and `torch.save` keep. Batches made ahead and not given do not count."""
        return json.loads(self._where())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` says. A table that the loader was opened on at its newest version goes back to the version of the state;
        with `follow`, until the epoch is over. Raises `InvalidInputError` for a state of other tables, filters, versions or another
        seed."""
        self._restore(state)
        # All ranks load one state, or those of one moment.
        self._agreed = True

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._native_loader().restore(json.dumps(dict(state)))
        self._moves += 1

    def stats(self) -> dict[str, Any]:
        """What was given and what it cost: `batches`, `rows`, `errors`, `bytes`; `wait_seconds` that the consumer waited, which says
        whether training starves; `read_seconds` and `decode_seconds` over all batches; `ready_bytes`. Of a remote lake, since it was
        opened and by whoever reads it: `cache_hit_bytes` that were read on the local disk, `cache_missed_bytes` from afar."""
        return self._native_loader().stats()

    def __repr__(self) -> str:
        tables = ", ".join(source.table.name for source in self._sources)
        return f"<cenote.Loader of {tables}: {self.epoch_rows} samples, {len(self)} batches an epoch>"


class _Batches(Iterator[Batch], AsyncIterator[Batch]):
    """What is left of one epoch, for threads or tasks that share it. Unlike a generator, it is not over when something was raised in it,
    and it does not run into the next epoch when it is over."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._begun = (-1, -1)
        """The process that began it, and the number that it has there."""

    def begin(self) -> tuple[_native.Loader, int]:
        """The native loader, and what it is asked by."""
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
            # Another thread may take what is ready.
            if (batch := self._give()) is not None:
                return batch
        raise StopIteration

    async def __anext__(self) -> Batch:
        while await in_thread(self._ready):
            # A task that is cancelled while it waits has taken nothing.
            if (batch := self._give()) is not None:
                return batch
        raise StopAsyncIteration


_open: weakref.WeakSet[Loader] = weakref.WeakSet()


def _remember_all() -> None:
    for loader in list(_open):
        loader._remember()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(before=_remember_all)


def _rebuild(
    sources: Sequence[Source],
    options: Mapping[str, Any],
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
    """The versions that a state is of; `None` for an epoch that has not begun, and reads the newest."""
    return None if state.get("unread") else [source["version"] for source in state["sources"]]


def _distributed() -> Any:
    """`torch.distributed`, where it is set up; `None` otherwise, and in workers of a `DataLoader`, which have a copy that is of no use."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return None if torch.utils.data.get_worker_info() else torch.distributed


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process among those that train together: as given, or as `torch.distributed` or the environment say."""
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
        raise InvalidInputError(f"RANK and WORLD_SIZE are numbers, found {given[0]!r} and {given[1]!r} in the environment") from None


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
    """A loader over one table or a mixture of several.

    - `columns`: what batches have (default: all). `transform` is applied to the only media column among them, or by column, as in
      `{"tokens": [cenote.op.pack(2048)]}`.
    - `shuffle`: without one, rows come in the order of their keys.
    - `buckets`: puts rows of about one length next to each other; the name of a column is `Buckets` of it.
    - `rank`, `world_size`: this process among those that train together (default: what `torch.distributed` says where it is set up, or
      else the environment's `RANK` and `WORLD_SIZE`, or else one alone). All read one version: the one that each source gives or a
      state says, or the one that is newest for rank 0 where `torch.distributed` can tell; without any of these the first batch is
      refused. All make the same number of steps. `last` says what becomes of
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
    rank, world_size = _ranks(rank, world_size)
    options: dict[str, Any] = {
        "columns": None if columns is None else list(columns),
        "batch_size": batch_size,
        "rank": rank,
        "world_size": world_size,
        "last": last,
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
    if order := _shuffle(shuffle):
        options["seed"], options["window"] = order.seed, order.window
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
