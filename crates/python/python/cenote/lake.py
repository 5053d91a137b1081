"""Lakes and their tables."""

from __future__ import annotations

import io
import operator
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from cenote import _native
from cenote._async import in_thread, pause
from cenote.errors import AlreadyExistsError, InvalidInputError
from cenote.rows import Given, Result, Rows
from cenote.types import to_schema

if TYPE_CHECKING:
    from cenote.loader import Loader

Device = Literal["cpu", "auto", "gpu", "software"]
"""Where models and kernels run."""

Key = Any
"""A key: one value, or a tuple of values for a key of several columns."""


class Written(TypedDict):
    """What a write did."""

    version: int
    inserted: int
    updated: int
    deleted: int


def open(
    location: str | os.PathLike[str],
    *,
    create: bool = False,
    memory: str | None = None,
    cpus: float | None = None,
    seed: int = 0,
    cache: str | None = None,
    device: Device = "cpu",
) -> Lake:
    """Opens the lake at `location`, a directory or a URI such as `s3://bucket/lake`.

    `create` makes it when there is none. `memory` is the budget, such as `"2 GiB"` (default: a quarter of the machine's, at most
    4 GiB); `cpus` are the cores for operators (default: all); `cache` is what may be kept of a remote lake on the local disk, such as
    `"20 GiB"` (default: 4 GiB; `"0"`: nothing). `device` is where models run, operators that a GPU can do a part of, and
    where the partitions of vector indexes are learned: `"gpu"`; or `"auto"`, where they end first; or `"software"`, which tries out Mesa's software Vulkan. Operators that were declared with `cenote.operator` before can be
    used in recipes and SQL.

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> lake.tables()
    []

    Raises `NotFoundError` when there is no lake.
    """
    place = os.fspath(location)
    if create:
        try:
            _native.init(place)
        except AlreadyExistsError:
            pass
    return Lake(place, memory=memory, cpus=cpus, seed=seed, cache=cache, device=device)


class Lake:
    """An open lake: tables in one place, with SQL, search, recipes and operators over them. Safe to share between threads.

    In a child process made by `fork` it opens itself again when it is first used.
    """

    def __init__(
        self,
        location: str,
        *,
        memory: str | None = None,
        cpus: float | None = None,
        seed: int = 0,
        cache: str | None = None,
        device: Device = "cpu",
    ) -> None:
        self._location = location
        self._options = (memory, cpus, seed, cache, device)
        self._process = os.getpid()
        self._inner: _native.Lake | None = _native.open(location, *self._options)

    def _native_lake(self) -> _native.Lake:
        if self._inner is None:
            raise InvalidInputError(f"the lake {self._location} is closed: open it again")
        if self._process != os.getpid():
            self._inner = _native.open(self._location, *self._options)
            self._process = os.getpid()
        return self._inner

    @property
    def location(self) -> str:
        """Where the lake is."""
        return self._location

    def close(self) -> None:
        """Lets other processes write at once. What was opened from this lake can be used on, the lake itself not."""
        if self._inner is not None:
            self._inner.release()
            self._inner = None

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Spawned workers get the place, and open it themselves.
        return _reopen, (self._location, *self._options)

    def __repr__(self) -> str:
        state = ", closed" if self._inner is None else ""
        return f"<cenote.Lake {self._location}{state}>"

    def __getitem__(self, name: str) -> Table:
        return self.table(name)

    def create_table(
        self,
        name: str,
        schema: Any,
        *,
        primary_key: str | Sequence[str],
        properties: Mapping[str, str] | None = None,
    ) -> Table:
        """Makes a table of `schema`: a dict from column to type (see `cenote.types`), or anything with `__arrow_c_schema__`.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> lake.create_table("photos", {"id": str, "picture": cenote.Image, "embedding": cenote.vector(4)}, primary_key="id")
        <cenote.Table photos>

        Raises `AlreadyExistsError`, or `InvalidInputError` for a name, type or key that cannot be.
        """
        key = [primary_key] if isinstance(primary_key, str) else list(primary_key)
        native = self._native_lake().create_table(name, to_schema(schema), key, dict(properties or {}))
        return Table(self, name, native)

    def table(self, name: str) -> Table:
        """The table called `name`; `lake[name]` is the same. Raises `NotFoundError`."""
        return Table(self, name, self._native_lake().table(name))

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        return self._native_lake().tables()

    def drop_table(self, name: str) -> None:
        """Removes a table with all its versions."""
        self._native_lake().drop_table(name)

    def sql(self, query: str, *parameters: Any) -> Result:
        """Answers a SQL query over the tables; `$1` in it stands for the first of `parameters`, and so on.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> lake.sql("SELECT $1 || '!' AS shout, $2 * 2 AS double", "it's", 21).to_pylist()
        [{'shout': "it's!", 'double': 42}]

        A parameter is `None`, a bool, a number, a text, bytes, a `datetime` or a vector.
        """
        return Result(self._native_lake().sql(query, list(parameters)))

    async def sql_async(self, query: str, *parameters: Any) -> Rows:
        """`sql` for asyncio: reads the whole answer beside the event loop."""

        def answer() -> Rows:
            return Rows(self.sql(query, *parameters)._native)  # pyright: ignore[reportPrivateUsage]

        return await in_thread(answer)

    def ingest(self, table: str, *paths: str | os.PathLike[str]) -> dict[str, Any]:
        """Puts files, and the files under directories, into a table, one row each, keyed by path. Unchanged files are passed over.

        What it did: `files`, `inserted`, `updated`, `unchanged`, and `skipped` with reasons.
        """
        return self._native_lake().ingest(table, [os.fspath(path) for path in paths])

    def run(
        self, recipe: str | os.PathLike[str], *, dry_run: int | None = None, retry_errors: bool = False
    ) -> list[dict[str, Any]]:
        """Runs a recipe, given as the path of a YAML file or as YAML: does what is not done yet. A report for each step.

        `dry_run` processes at most so many rows a step and writes nothing; `retry_errors` tries rows again that failed. Ctrl-C stops
        at the last commit, and the next run goes on from there.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> notes = lake.create_table("notes", {"id": int, "note": str}, primary_key="id")
        >>> _ = notes.upsert([{"id": 1, "note": "two words"}])
        >>> lake.run("{ name: words, steps: [ { table: notes, operator: count_words, input: note } ] }")[0]["rows_processed"]
        1
        """
        if isinstance(recipe, str) and ("\n" in recipe or recipe.lstrip().startswith("{")):
            text, origin = recipe, "recipe"
        else:
            with io.open(recipe, encoding="utf-8") as file:
                text, origin = file.read(), os.fspath(recipe)
        return self._native_lake().run(text, origin, dry_run, retry_errors)

    async def run_async(self, recipe: str | os.PathLike[str], **options: Any) -> list[dict[str, Any]]:
        """`run` for asyncio."""
        return await in_thread(self.run, recipe, **options)

    def errors(self, table: str) -> Rows:
        """The rows of `table` that could not be processed, with step, operator, reason and time."""
        return Rows(self._native_lake().errors(table))

    def status(self) -> list[dict[str, Any]]:
        """Rows, versions, bytes on disk, errors and indexes of each table."""
        return self._native_lake().status()

    def operators(self) -> dict[str, str]:
        """What recipes and SQL can name: each operator with one line about it."""
        return dict(self._native_lake().operators())

    def models(self) -> dict[str, dict[str, Any]]:
        """The models in memory: for each, the `provider` that really runs it, and how many `sessions` are open."""
        loaded = self._native_lake().models()
        return {name: {"provider": provider, "sessions": sessions} for name, provider, sessions in loaded}


def _reopen(
    location: str, memory: str | None, cpus: float | None, seed: int, cache: str | None, device: Device
) -> Lake:
    return Lake(location, memory=memory, cpus=cpus, seed=seed, cache=cache, device=device)


def _keys(keys: Iterable[Key]) -> list[list[Any]]:
    return [list(key) if isinstance(key, tuple) else [key] for key in keys]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _is_arrow(data: Any) -> bool:
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


class Table:
    """A table with a primary key. Each write is one version, durable and visible to all when the call returns."""

    def __init__(self, lake: Lake, name: str, native: _native.Table) -> None:
        self._lake = lake
        self._name = name
        self._inner = native
        self._process = os.getpid()

    def _native_table(self) -> _native.Table:
        if self._process != os.getpid():
            self._inner = self._lake._native_lake().table(self._name)  # pyright: ignore[reportPrivateUsage]
            self._process = os.getpid()
        return self._inner

    def __reduce__(self) -> tuple[Any, ...]:
        return Lake.table, (self._lake, self._name)

    def __repr__(self) -> str:
        return f"<cenote.Table {self._name}>"

    def __len__(self) -> int:
        return self.count()

    @property
    def name(self) -> str:
        """The table's name."""
        return self._name

    @property
    def lake(self) -> Lake:
        """The lake that it is in."""
        return self._lake

    @property
    def schema(self) -> _native.Schema:
        """The columns, for anything that takes `__arrow_c_schema__`, such as `pyarrow.schema`."""
        return self._native_table().schema()

    @property
    def primary_key(self) -> list[str]:
        """The columns of the key."""
        return self._native_table().primary_key()

    @property
    def version(self) -> int:
        """The newest version: every write makes the next one."""
        return self._native_table().version()

    def count(self, where: str | None = None, *, version: int | str | None = None) -> int:
        """How many rows there are, or satisfy `where`."""
        return self._native_table().count(where, _version(version))

    def upsert(self, data: Any) -> Written:
        """Inserts rows, and replaces whole those whose key is there.

        `data` is Arrow data (a table, data frame, record batch or reader of pyarrow, pandas, Polars, DuckDB …), a dict of columns, or
        a list of dicts: one version, whole or not there, whatever its size. A column that it lacks becomes null. Any other iterable
        is written item by item, a version each, and the report adds them up.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> photos = lake.create_table("photos", {"id": str, "caption": str}, primary_key="id")
        >>> photos.upsert({"id": ["a", "b"], "caption": ["a cat", None]})["inserted"]
        2
        >>> photos.upsert(({"id": [key]} for key in "bcd"))["updated"]
        1

        Raises `InvalidInputError` for an unknown column, a type that does not fit or a key given twice; nothing of that version is
        written.
        """
        if _is_arrow(data) or isinstance(data, (Mapping, list)):
            return self._native_table().upsert(self._rows(data))
        if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
            raise InvalidInputError(f"rows are Arrow data, a dict of columns or a list of dicts, found {type(data).__name__}")
        total = Written(version=0, inserted=0, updated=0, deleted=0)
        for item in data:  # pyright: ignore[reportUnknownVariableType]
            written = self._native_table().upsert(self._rows(item))
            total["version"] = written["version"]
            total["inserted"] += written["inserted"]
            total["updated"] += written["updated"]
        return total

    async def upsert_async(self, data: Any) -> Written:
        """`upsert` for asyncio."""
        return await in_thread(self.upsert, data)

    def update(self, data: Any) -> Written:
        """Sets the columns that `data` has beside the key, for the keys that are there. Media columns change by `upsert`."""
        return self._native_table().update(self._rows(data))

    def _rows(self, data: Any) -> Any:
        """`data` as something that speaks Arrow."""
        if isinstance(data, Mapping) and not _is_arrow(data):  # pyright: ignore[reportUnknownArgumentType]
            columns: list[tuple[str, Any]] = [(str(name), values) for name, values in data.items()]  # pyright: ignore
            for name, values in columns:
                if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                    raise InvalidInputError(f"column `{name}` is a list of values, found {type(values).__name__}")
            return self._native_table().build(columns)
        if isinstance(data, list):
            rows: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
            names: dict[str, None] = {}
            for at, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise InvalidInputError(f"rows are dicts, and row {at} is a {type(row).__name__}")
                if not row:
                    raise InvalidInputError(f"row {at} is an empty dict: a row has the columns of the key at least")
                names.update(dict.fromkeys(row))  # pyright: ignore[reportUnknownArgumentType]
            return self._native_table().build([(name, [row.get(name) for row in rows]) for name in names])
        return data

    def delete(self, keys: Any = None, *, where: str | None = None) -> Written:
        """Deletes rows by key, or those that satisfy `where`. Keys are a list of values (of tuples, for a key of several columns), or
        Arrow data with the key's columns; one that is absent is passed over.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> photos = lake.create_table("photos", {"id": str}, primary_key="id")
        >>> _ = photos.upsert({"id": ["a", "b", "c"]})
        >>> photos.delete(["a"])["deleted"], photos.delete(where="id > 'b'")["deleted"], len(photos)
        (1, 1, 1)
        """
        if (keys is None) == (where is None):
            raise InvalidInputError("give either keys or `where`")
        if where is not None:
            return self._native_table().delete_where(where)
        if _is_arrow(keys):
            return self._native_table().delete_rows(keys)
        if isinstance(keys, (str, bytes)):
            raise InvalidInputError(f"keys are a list: write [{keys!r}]")
        return self._native_table().delete_keys(_keys(keys))

    def get(
        self, key: Key, *, columns: Sequence[str] | None = None, version: int | str | None = None
    ) -> dict[str, Any] | None:
        """The row with this key, or `None`.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> photos = lake.create_table("photos", {"id": str, "caption": str}, primary_key="id")
        >>> _ = photos.upsert([{"id": "a", "caption": "a cat"}])
        >>> photos.get("a")
        {'id': 'a', 'caption': 'a cat'}
        >>> photos.get("b") is None
        True
        """
        rows = self.get_many([key], columns=columns, version=version).to_pylist()
        return rows[0] if rows else None

    def get_many(
        self, keys: Iterable[Key], *, columns: Sequence[str] | None = None, version: int | str | None = None
    ) -> Rows:
        """The rows with these keys, in no promised order; an absent key gives none."""
        wanted = None if columns is None else list(columns)
        return Rows(self._native_table().get_keys(_keys(keys), wanted, _version(version)))

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        *,
        limit: int | None = None,
        version: int | str | None = None,
        batch_rows: int | None = None,
    ) -> Result:
        """Rows as they come, in no promised order. Media is read only when its column is named, or no columns are."""
        wanted = None if columns is None else list(columns)
        limit, batch_rows = _count("limit", limit), _count("batch_rows", batch_rows)
        return Result(self._native_table().scan(wanted, where, limit, _version(version), batch_rows))

    def read(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Rows:
        """`scan`, read into memory."""
        return Rows(self.scan(columns, where, **options)._native)  # pyright: ignore[reportPrivateUsage]

    def to_arrow(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Rows as a pyarrow table."""
        return self.scan(columns, where, **options).to_arrow()

    def to_pandas(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Rows as a pandas data frame."""
        return self.scan(columns, where, **options).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Rows as a Polars data frame."""
        return self.scan(columns, where, **options).to_polars()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.scan().__arrow_c_stream__(requested_schema)

    def index(
        self, column: str, *, kind: str | None = None, metric: str | None = None, name: str | None = None
    ) -> dict[str, Any]:
        """Builds an index: `kind` is `vector` (default when a `metric` is given: `l2`, `cosine` or `dot`), `fulltext` or `scalar`.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> photos = lake.create_table("photos", {"id": str, "caption": str}, primary_key="id")
        >>> _ = photos.upsert({"id": ["a", "b"], "caption": ["a red dress", "a blue hat"]})
        >>> photos.index("caption", kind="fulltext")["kind"]
        'text'
        >>> photos.search(text="red dresses", k=5)["id"].to_pylist()
        ['a']
        """
        kind = kind or ("vector" if metric else "scalar")
        kind = "text" if kind == "fulltext" else kind
        return self._native_table().create_index(column, kind, metric, name)

    def indexes(self) -> list[dict[str, Any]]:
        """The indexes, with how many rows each has not seen yet. Searches find those rows all the same."""
        return self._native_table().indexes()

    def drop_index(self, name: str) -> None:
        """Drops an index by its name."""
        self._native_table().drop_index(name)

    def optimize_indexes(self) -> None:
        """Adds to every index what it has not seen."""
        self._native_table().optimize_indexes()

    def search(
        self,
        text: str | None = None,
        image: bytes | str | os.PathLike[str] | None = None,
        vector: Any = None,
        *,
        column: str | None = None,
        where: str | None = None,
        k: int = 10,
        columns: Sequence[str] | None = None,
    ) -> Rows:
        """The best `k` rows: nearest first with `_distance`, or best first with `_score` when words are searched.

        `vector` (any sequence of numbers) and `image` (its bytes, or the path of a file) search a vector column: `column`, or the only
        one. `text` searches words by the full-text index; without one, or with `column` given, by meaning, as `embed_text` sees
        it. Words together with a vector, image or `column` give both rankings fused. `where` is applied before the search, so there
        are always min(k, matching) rows.

        The full-text index reads `text` as a query: `"a phrase"`, `colour~1` (a word in which so many letters differ; `~` alone: as
        many as fit its length), `AND`, `OR`, `NOT`, `+must`, `-mustnot` and parentheses; a backslash takes a character as it is.
        Words alone find rows with one of them.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> points = lake.create_table("points", {"id": int, "at": cenote.vector(2)}, primary_key="id")
        >>> _ = points.upsert({"id": [1, 2, 3], "at": [[0, 0], [3, 4], [9, 9]]})
        >>> points.search(vector=[0, 0], where="id > 1", k=1).to_pylist()
        [{'id': 2, 'at': [3.0, 4.0], '_distance': 5.0}]
        """
        if isinstance(image, (str, os.PathLike)):
            with io.open(image, "rb") as file:
                image = file.read()
        wanted = None if columns is None else list(columns)
        best = _count("k", k)
        if best is None:
            raise InvalidInputError("`k` is how many rows are wanted, found None")
        return Rows(self._native_table().search(text, image, vector, column, where, best, wanted))

    async def search_async(self, *arguments: Any, **options: Any) -> Rows:
        """`search` for asyncio."""
        return await in_thread(self.search, *arguments, **options)

    def loader(
        self,
        columns: Sequence[str] | None = None,
        *,
        where: str | None = None,
        version: int | str | None = None,
        **options: Any,
    ) -> Loader:
        """Training batches of this table's rows at `version` (a number, `"tag:NAME"`, or the newest). `options` are those of
        `cenote.loader`: `batch_size`, `shuffle`, `rank`, `world_size`, `last`, `transform`, `output`, `device` and so on.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> numbers = lake.create_table("numbers", {"id": int}, primary_key="id")
        >>> _ = numbers.upsert({"id": range(10)})
        >>> [batch["id"].tolist() for batch in numbers.loader(batch_size=4, where="id < 6", output="numpy")]
        [[0, 1, 2, 3], [4, 5]]
        """
        from cenote.loader import Source, loader

        return loader(Source(self, where=where, version=version), columns=columns, **options)

    def changes(self, start: int | None = None) -> Changes:
        """What happened to rows after version `start` (default: all that is kept), write by write.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> notes = lake.create_table("notes", {"id": int, "note": str}, primary_key="id")
        >>> start = notes.version
        >>> _ = notes.upsert([{"id": 1, "note": "rain"}]); _ = notes.delete([1])
        >>> [row["operation"] for write in notes.changes(start) for row in write]
        ['insert', 'delete']
        """
        return Changes(self._native_table().changes(start))

    def tag(self, name: str, version: int | None = None) -> int:
        """Names a version (default: the newest), which is kept until `untag`. That version."""
        return self._native_table().tag(name, version)

    def untag(self, name: str) -> None:
        """Forgets a tag."""
        self._native_table().untag(name)

    def tags(self) -> dict[str, int]:
        """All tags with their versions."""
        return self._native_table().tags()

    def versions(self) -> list[tuple[int, int]]:
        """The versions that can be read, oldest first, each with its time in microseconds since 1970."""
        return self._native_table().versions()

    def add_columns(self, schema: Any) -> int:
        """Adds columns, null in every row; the new version."""
        return self._native_table().add_columns(to_schema(schema))

    def drop_columns(self, *columns: str) -> int:
        """Drops columns; the new version."""
        return self._native_table().drop_columns(list(columns))

    @property
    def properties(self) -> dict[str, str]:
        """The table's settings."""
        return self._native_table().properties()

    def set_properties(self, properties: Mapping[str, str | None]) -> int:
        """Changes settings; `None` removes one. The new version."""
        return self._native_table().set_properties(dict(properties))

    def compact(self, *, purge: bool = False) -> None:
        """Moves recent writes into the Lance base, joins small files, and removes the past beyond retention; with `purge`, all of it that
        nobody reads."""
        self._native_table().compact(purge)

    def fold(self) -> None:
        """Moves recent writes into the Lance base. It happens by itself."""
        self._native_table().fold()


class Changes:
    """The changes of a table: each item is one write's rows, with the columns `version`, `time`, `operation`, `key`, `before` and
    `after`. It ends where there is no more yet; iterating again goes on from there, after Ctrl-C or an error too. Threads that share it
    get each write once."""

    def __init__(self, native: _native.Changes) -> None:
        self._native = native

    @property
    def version(self) -> int:
        """Up to which version it was read."""
        return self._native.version()

    def __iter__(self) -> Iterator[Rows]:
        return Given(self._native, Rows)

    def follow(self, every: float = 0.2) -> AsyncIterator[Rows]:
        """The changes as they come, without an end; new ones are looked for `every` so many seconds. What a cancelled task did not get
        comes next."""
        return _Following(self._native, every)


class _Following(AsyncIterator[Rows]):
    """The changes of a table as they come. Unlike a generator, it is not over when a task was cancelled in it."""

    def __init__(self, native: _native.Changes, every: float) -> None:
        self._native = native
        self._every = every

    async def __anext__(self) -> Rows:
        while True:
            if not await in_thread(self._native.ready):
                await pause(self._every)
            elif (rows := self._native.give(Rows)) is not None:
                # Nothing is awaited once they are taken.
                return rows


def _count(name: str, value: int | None) -> int | None:
    """`value`, if it is a number of rows or `None`."""
    try:
        count = None if value is None else operator.index(value)
    except TypeError:
        count = -1
    if count is not None and not 0 <= count <= sys.maxsize:
        raise InvalidInputError(f"`{name}` is a whole number from 0 on, found {value!r}")
    return count


def _version(version: int | str | None) -> str | None:
    return None if version is None else str(version)
