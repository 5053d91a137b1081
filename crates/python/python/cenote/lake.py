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
"""The device for models and kernels."""

Key = Any
"""A key: one value, or a tuple of values for a key of several columns."""


class Written(TypedDict):
    """The outcome of a write: its version, and how many rows it inserted, updated and deleted."""

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
    """Opens a lake.

    Recipes and SQL can use the operators that were declared with `cenote.operator` before.

    Args:
        location: A directory, or a URI such as `s3://bucket/lake`.
        create: Whether to create the lake if it does not exist.
        memory: The memory budget, such as `"2 GiB"` (default: a quarter of the machine's memory, at most 4 GiB).
        cpus: The cores for operators (default: all).
        seed: The seed of everything random.
        cache: The local disk cache of a remote lake, such as `"20 GiB"` (default: 4 GiB; `"0"` caches nothing).
        device: The device for models, for kernels of operators, and for learning the partitions of vector indexes:
            `"cpu"`, `"gpu"`, `"auto"` for whichever is expected to finish first, or `"software"` to try out Mesa's
            software Vulkan.

    Raises:
        NotFoundError: `location` is not a lake, and `create` is false.

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> lake.tables()
    []
    """
    place = os.fspath(location)
    if create:
        try:
            _native.init(place)
        except AlreadyExistsError:
            pass
    return Lake(place, memory=memory, cpus=cpus, seed=seed, cache=cache, device=device)


class Lake:
    """An open lake: tables, with SQL, search, recipes and operators over them. Threads can share it.

    In a child process made by `fork`, the lake opens itself again when it is first used.
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
        """The lake's directory or URI."""
        return self._location

    def close(self) -> None:
        """Closes the lake, and lets other processes write at once. Tables and loaders from this lake stay usable."""
        if self._inner is not None:
            self._inner.release()
            self._inner = None

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Spawned workers receive the location, and open the lake themselves.
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
        """Creates a table.

        Args:
            name: The table's name.
            schema: A dict from column to type (see `cenote.types`), or anything with `__arrow_c_schema__`.
            primary_key: The column of the key, or several.
            properties: The table's settings.

        Raises:
            AlreadyExistsError: The name is in use.
            InvalidInputError: The name, a type or the key is not possible.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> schema = {"id": str, "picture": cenote.Image, "embedding": cenote.vector(4)}
        >>> lake.create_table("photos", schema, primary_key="id")
        <cenote.Table photos>
        """
        key = [primary_key] if isinstance(primary_key, str) else list(primary_key)
        native = self._native_lake().create_table(name, to_schema(schema), key, dict(properties or {}))
        return Table(self, name, native)

    def table(self, name: str) -> Table:
        """Returns the table called `name`, like `lake[name]`.

        Raises:
            NotFoundError: There is no such table.
        """
        return Table(self, name, self._native_lake().table(name))

    def tables(self) -> list[str]:
        """Lists the names of all tables, sorted."""
        return self._native_lake().tables()

    def drop_table(self, name: str) -> None:
        """Removes a table with all its versions."""
        self._native_lake().drop_table(name)

    def sql(self, query: str, *parameters: Any) -> Result:
        """Runs a SQL query over the tables.

        Args:
            query: The query, in which `$1` stands for the first of `parameters`, and so on.
            *parameters: Each is `None`, a bool, a number, a str, bytes, a date, time, `datetime`, `timedelta` or
                `UUID`, or a list or dict of these. A `datetime` with a zone is an instant.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> lake.sql("SELECT $1 || '!' AS shout, $2 * 2 AS double", "it's", 21).to_pylist()
        [{'shout': "it's!", 'double': 42}]
        """
        return Result(self._native_lake().sql(query, list(parameters)))

    async def sql_async(self, query: str, *parameters: Any) -> Rows:
        """Runs `sql` for asyncio, and reads the whole answer beside the event loop."""

        def answer() -> Rows:
            return Rows(self.sql(query, *parameters)._native)  # pyright: ignore[reportPrivateUsage]

        return await in_thread(answer)

    def ingest(self, table: str, *paths: str | os.PathLike[str]) -> dict[str, Any]:
        """Writes files, and the files under directories, to a table, one row each, keyed by path.

        The table is created if it does not exist. Unchanged files are passed over.

        Returns:
            A dict with the counts `files`, `inserted`, `updated` and `unchanged`, and `skipped`, a list of files that
            could not be read with the reasons.
        """
        return self._native_lake().ingest(table, [os.fspath(path) for path in paths])

    def run(
        self, recipe: str | os.PathLike[str], *, dry_run: int | None = None, retry_errors: bool = False
    ) -> list[dict[str, Any]]:
        """Runs a recipe: processes the rows that are stale.

        Ctrl-C stops the run at its last commit, and the next run resumes there.

        Args:
            recipe: The path of a YAML file, or YAML text.
            dry_run: If given, processes at most this many rows of each step, and writes nothing.
            retry_errors: Whether to retry rows that failed before.

        Returns:
            A report for each step.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> notes = lake.create_table("notes", {"id": int, "note": str}, primary_key="id")
        >>> _ = notes.upsert([{"id": 1, "note": "two words"}])
        >>> recipe = "{ name: words, steps: [ { table: notes, operator: count_words, input: note } ] }"
        >>> lake.run(recipe)[0]["rows_processed"]
        1
        """
        if isinstance(recipe, str) and ("\n" in recipe or recipe.lstrip().startswith("{")):
            text, origin = recipe, "recipe"
        else:
            with io.open(recipe, encoding="utf-8") as file:
                text, origin = file.read(), os.fspath(recipe)
        return self._native_lake().run(text, origin, dry_run, retry_errors)

    async def run_async(self, recipe: str | os.PathLike[str], **options: Any) -> list[dict[str, Any]]:
        """Runs `run` for asyncio, beside the event loop."""
        return await in_thread(self.run, recipe, **options)

    def errors(self, table: str) -> Rows:
        """Returns the rows of `table` that could not be processed, with step, operator, reason and time."""
        return Rows(self._native_lake().errors(table))

    def status(self) -> list[dict[str, Any]]:
        """Returns the rows, versions, bytes on disk, errors and indexes of each table."""
        return self._native_lake().status()

    def operators(self) -> dict[str, str]:
        """Returns the operators that recipes and SQL can name, each with one line about it."""
        return dict(self._native_lake().operators())

    def models(self) -> dict[str, dict[str, Any]]:
        """Returns the models in memory: for each, the `provider` that runs it, and how many `sessions` are open."""
        loaded = self._native_lake().models()
        return {name: {"provider": provider, "sessions": sessions} for name, provider, sessions in loaded}


def _reopen(
    location: str, memory: str | None, cpus: float | None, seed: int, cache: str | None, device: Device
) -> Lake:
    return Lake(location, memory=memory, cpus=cpus, seed=seed, cache=cache, device=device)


def _keys(keys: Iterable[Key]) -> list[list[Any]]:
    return [list(key) if isinstance(key, tuple) else [key] for key in keys]  # pyright: ignore


def _is_arrow(data: Any) -> bool:
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


class Table:
    """A table with a primary key.

    Each write is one version, durable and visible to every reader when the call returns. Where a method takes a
    `version`, it is a number, `"tag:NAME"`, or `None` for the newest.
    """

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
        """The table's lake."""
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
        """The newest version. Every write makes the next one."""
        return self._native_table().version()

    def count(self, where: str | None = None, *, version: int | str | None = None) -> int:
        """Counts all rows, or those that satisfy the SQL predicate `where`."""
        return self._native_table().count(where, _version(version))

    def upsert(self, data: Any) -> Written:
        """Inserts rows, and replaces whole those whose key exists.

        Args:
            data: Arrow data (a table, data frame, record batch or reader of pyarrow, pandas, Polars, DuckDB …), a dict
                of columns, or a list of dicts, which becomes one version whatever its size. A column that it lacks
                becomes null. Any other iterable is written item by item, a version each, and the report adds them up.

        Raises:
            InvalidInputError: A column is unknown, a type does not fit, or a key was given twice. Nothing of that
                version is written.

        >>> import cenote, tempfile
        >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
        >>> photos = lake.create_table("photos", {"id": str, "caption": str}, primary_key="id")
        >>> photos.upsert({"id": ["a", "b"], "caption": ["a cat", None]})["inserted"]
        2
        >>> photos.upsert(({"id": [key]} for key in "bcd"))["updated"]
        1
        """
        if _is_arrow(data) or isinstance(data, (Mapping, list)):
            return self._native_table().upsert(self._rows(data))
        if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
            found = type(data).__name__
            raise InvalidInputError(f"rows must be Arrow data, a dict of columns or a list of dicts, found {found}")
        total = Written(version=0, inserted=0, updated=0, deleted=0)
        for item in data:  # pyright: ignore[reportUnknownVariableType]
            written = self._native_table().upsert(self._rows(item))
            total["version"] = written["version"]
            total["inserted"] += written["inserted"]
            total["updated"] += written["updated"]
        return total

    async def upsert_async(self, data: Any) -> Written:
        """Runs `upsert` for asyncio, beside the event loop."""
        return await in_thread(self.upsert, data)

    def update(self, data: Any) -> Written:
        """Sets the columns that `data` has beside the key, in the rows whose key exists.

        Other keys are passed over. Media columns change by `upsert` only.
        """
        return self._native_table().update(self._rows(data))

    def _rows(self, data: Any) -> Any:
        """Turns `data` into Arrow data."""
        if isinstance(data, Mapping) and not _is_arrow(data):  # pyright: ignore[reportUnknownArgumentType]
            columns: list[tuple[str, Any]] = [(str(name), values) for name, values in data.items()]  # pyright: ignore
            for name, values in columns:
                if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                    raise InvalidInputError(f"column `{name}` must be a list of values, found {type(values).__name__}")
            return self._native_table().build(columns)
        if isinstance(data, list):
            rows: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
            names: dict[str, None] = {}
            for at, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise InvalidInputError(f"rows must be dicts, and row {at} is a {type(row).__name__}")
                if not row:
                    raise InvalidInputError(f"row {at} is an empty dict: a row needs the columns of the key at least")
                names.update(dict.fromkeys(row))  # pyright: ignore[reportUnknownArgumentType]
            return self._native_table().build([(name, [row.get(name) for row in rows]) for name in names])
        return data

    def delete(self, keys: Any = None, *, where: str | None = None) -> Written:
        """Deletes rows by key, or those that satisfy a predicate.

        Args:
            keys: A list of values (of tuples, for a key of several columns), or Arrow data with the key's columns. A
                key that is absent is passed over.
            where: A SQL predicate, instead of keys.

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
            raise InvalidInputError(f"keys must be a list: write [{keys!r}]")
        return self._native_table().delete_keys(_keys(keys))

    def get(
        self, key: Key, *, columns: Sequence[str] | None = None, version: int | str | None = None
    ) -> dict[str, Any] | None:
        """Returns the row with this key, or `None`.

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
        """Returns the rows with these keys, in no promised order. A key that is absent has no row."""
        return Rows(self._native_table().get_keys(_keys(keys), column_names(columns), _version(version)))

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        *,
        limit: int | None = None,
        version: int | str | None = None,
        batch_rows: int | None = None,
    ) -> Result:
        """Streams rows, in no promised order.

        Args:
            columns: The columns to read (default: all). Media is only read if its column is among them.
            where: Only rows that satisfy this SQL predicate.
            limit: At most this many rows.
            version: A number, `"tag:NAME"`, or `None` for the newest.
            batch_rows: At most this many rows per batch.
        """
        limit, batch_rows = _count("limit", limit), _count("batch_rows", batch_rows)
        return Result(self._native_table().scan(column_names(columns), where, limit, _version(version), batch_rows))

    def read(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Rows:
        """Reads what `scan` streams into memory."""
        return Rows(self.scan(columns, where, **options)._native)  # pyright: ignore[reportPrivateUsage]

    def to_arrow(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Reads what `scan` streams as a pyarrow table."""
        return self.scan(columns, where, **options).to_arrow()

    def to_pandas(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Reads what `scan` streams as a pandas data frame."""
        return self.scan(columns, where, **options).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None, where: str | None = None, **options: Any) -> Any:
        """Reads what `scan` streams as a Polars data frame."""
        return self.scan(columns, where, **options).to_polars()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.scan().__arrow_c_stream__(requested_schema)

    def index(
        self, column: str, *, kind: str | None = None, metric: str | None = None, name: str | None = None
    ) -> dict[str, Any]:
        """Builds an index.

        Args:
            column: The column.
            kind: `vector` (the default with a `metric`), `fulltext`, or `scalar` (the default without one).
            metric: The distance of vectors: `l2`, `cosine` or `dot`.
            name: The index's name (default: made from column and kind).

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
        """Lists the indexes, each with the number of rows by which it lags. Searches find those rows too."""
        return self._native_table().indexes()

    def drop_index(self, name: str) -> None:
        """Drops an index by its name."""
        self._native_table().drop_index(name)

    def optimize_indexes(self) -> None:
        """Brings every index up to date with the rows by which it lags."""
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
        """Returns the best `k` rows: the nearest first with `_distance`, or the best first with `_score` for words.

        A `vector` or an `image` searches a vector column. A `text` searches for words in the full-text index; without
        such an index it searches by meaning, through the vector column, and with `column` given by both. Two rankings
        are fused.

        The full-text index finds rows with one of the words. It also understands `"a phrase"`, `colour~1` (a word
        that differs by at most 1 letter; with `~` alone, by a number of letters that fits its length), `AND`, `OR`,
        `NOT`, `+must`, `-mustnot` and parentheses; a backslash takes the next character literally.

        Args:
            text: Words to find.
            image: A picture to find similar pictures to: its bytes, or the path of a file.
            vector: Any sequence of numbers.
            column: The vector column (default: the only one).
            where: A SQL predicate that is applied before the search, so that there are min(k, matching) rows.
            k: The number of rows.
            columns: The columns of the answer (default: all).

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
        best = _count("k", k)
        if best is None:
            raise InvalidInputError("`k` must be a number of rows, found None")
        names = column_names(columns)
        return Rows(self._native_table().search(text, image, vector, column, where, best, names))

    async def search_async(self, *arguments: Any, **options: Any) -> Rows:
        """Runs `search` for asyncio, beside the event loop."""
        return await in_thread(self.search, *arguments, **options)

    def loader(
        self,
        columns: Sequence[str] | None = None,
        *,
        where: str | None = None,
        version: int | str | None = None,
        **options: Any,
    ) -> Loader:
        """Returns a loader of training batches of this table's rows.

        Args:
            columns: The columns of the batches (default: all).
            where: Only rows that satisfy this SQL predicate.
            version: A number, `"tag:NAME"`, or `None` for the newest.
            **options: Those of `cenote.loader`: `batch_size`, `shuffle`, `rank`, `world_size`, `last`, `transform`,
                `output`, `device` and so on.

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
        """Reads the changes of rows after version `start` (default: all that are kept), write by write.

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
        """Tags a version (default: the newest), which is kept until `untag`, and returns it."""
        return self._native_table().tag(name, version)

    def untag(self, name: str) -> None:
        """Deletes a tag."""
        self._native_table().untag(name)

    def tags(self) -> dict[str, int]:
        """Returns the tags with their versions."""
        return self._native_table().tags()

    def versions(self) -> list[tuple[int, int]]:
        """Lists the versions that can be read, oldest first, each with its time in microseconds since 1970."""
        return self._native_table().versions()

    def add_columns(self, schema: Any) -> int:
        """Adds columns, null in every row, and returns the new version."""
        return self._native_table().add_columns(to_schema(schema))

    def drop_columns(self, *columns: str) -> int:
        """Drops columns, and returns the new version."""
        return self._native_table().drop_columns(list(columns))

    @property
    def properties(self) -> dict[str, str]:
        """The table's settings."""
        return self._native_table().properties()

    def set_properties(self, properties: Mapping[str, str | None]) -> int:
        """Changes settings, of which `None` removes one, and returns the new version."""
        return self._native_table().set_properties(dict(properties))

    def compact(self, *, purge: bool = False) -> None:
        """Folds recent writes into the base, joins small files, updates indexes, and removes the past beyond retention.

        Args:
            purge: Whether to remove all of the past and of deleted rows, except what tags, consumers and readers hold.
        """
        self._native_table().compact(purge)

    def fold(self) -> None:
        """Folds recent writes into the base, which otherwise happens by itself."""
        self._native_table().fold()


class Changes:
    """The changes of a table.

    Each item is the rows of one write, with the columns `version`, `time`, `operation`, `key`, `before` and `after`.
    Iteration ends at the newest write; iterating again resumes there, also after Ctrl-C or an error. Threads that share
    a feed get each write once.
    """

    def __init__(self, native: _native.Changes) -> None:
        self._native = native

    @property
    def version(self) -> int:
        """The version up to which the feed was read."""
        return self._native.version()

    def __iter__(self) -> Iterator[Rows]:
        return Given(self._native, Rows)

    def follow(self, every: float = 0.2) -> AsyncIterator[Rows]:
        """Yields changes without an end, and looks for new ones every `every` seconds.

        Changes that a cancelled task did not receive come next.
        """
        return _Following(self._native, every)


class _Following(AsyncIterator[Rows]):
    """An endless iterator over changes. Unlike a generator, it survives the cancellation of a task in it."""

    def __init__(self, native: _native.Changes, every: float) -> None:
        self._native = native
        self._every = every

    async def __anext__(self) -> Rows:
        while True:
            if not await in_thread(self._native.ready):
                await pause(self._every)
            elif (rows := self._native.give(Rows)) is not None:
                # Nothing is awaited once the rows are taken, so that none is lost.
                return rows


def column_names(columns: Sequence[str] | None) -> list[str] | None:
    """Returns `columns` as a list. A text, whose letters would be taken for columns, is refused."""
    if isinstance(columns, str):
        raise InvalidInputError(f"columns must be a list: write [{columns!r}]")
    return None if columns is None else list(columns)


def _count(name: str, value: int | None) -> int | None:
    """Returns `value`, if it is a number of rows or `None`."""
    try:
        count = None if value is None else operator.index(value)
    except TypeError:
        count = -1
    if count is not None and not 0 <= count <= sys.maxsize:
        raise InvalidInputError(f"`{name}` must be a whole number from 0 on, found {value!r}")
    return count


def _version(version: int | str | None) -> str | None:
    return None if version is None else str(version)
