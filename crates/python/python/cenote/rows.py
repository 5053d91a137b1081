"""Rows, which tables, searches and SQL return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from cenote import _native

if TYPE_CHECKING:
    import pandas
    import polars

_SHOWN = 20


class Rows:
    """Rows in memory, which any library with Arrow's PyCapsule interface reads without a copy.

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> notes = lake.create_table("notes", {"id": int, "note": str}, primary_key="id")
    >>> _ = notes.upsert([{"id": 1, "note": "rain"}, {"id": 2, "note": None}])
    >>> rows = notes.read()
    >>> len(rows), rows.columns
    (2, ['id', 'note'])
    >>> sorted(row["id"] for row in rows)
    [1, 2]
    """

    def __init__(self, native: _native.Rows) -> None:
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [name for name, _, _, _ in self._native.schema.fields()]

    @property
    def schema(self) -> _native.Schema:
        """The columns with their types, for anything that takes `__arrow_c_schema__`."""
        return self._native.schema

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._native.__arrow_c_schema__()

    def __getitem__(self, column: str) -> _native.Column:
        """Returns one column, with `__arrow_c_array__`."""
        return self._native.column(column)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterates over the rows as dicts of Python values: for inspection, not for large data."""
        return iter(self._native.to_pylist())

    def to_pylist(self) -> list[dict[str, Any]]:
        """Returns the rows as dicts of Python values, equal to those of pyarrow's `to_pylist`."""
        return self._native.to_pylist()

    def to_arrow(self) -> Any:
        """Returns the rows as a pyarrow table, without a copy."""
        import pyarrow

        return pyarrow.table(self)

    def to_pandas(self, **options: Any) -> pandas.DataFrame:
        """Returns the rows as a pandas data frame; `options` are those of `pyarrow.Table.to_pandas`."""
        return self.to_arrow().to_pandas(**options)

    def to_polars(self) -> polars.DataFrame:
        """Returns the rows as a Polars data frame, without a copy where Polars has the same layout."""
        import polars

        return polars.DataFrame(self)

    def __repr__(self) -> str:
        shown = ", ".join(self.columns)
        return f"<cenote.Rows: {len(self)} rows of {shown}>"

    def _repr_html_(self) -> str:
        import html

        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        lines: list[str] = []
        for row in self._native.head(_SHOWN).to_pylist():
            cells = "".join(f"<td>{_cell(value)}</td>" for value in row.values())
            lines.append(f"<tr>{cells}</tr>")
        more = "" if len(self) <= _SHOWN else f"<p>{len(self)} rows, of which {_SHOWN} are shown</p>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"


Made = TypeVar("Made")


class Given(Iterator[Made]):
    """An iterator over a native source, whose items `make` wraps. Unlike a generator, it survives an exception."""

    def __init__(self, source: _native.ItemSource, make: Callable[[Any], Made]) -> None:
        self._source = source
        self._make = make

    def __next__(self) -> Made:
        while self._source.ready():
            # Another thread may take what is ready.
            if (made := self._source.give(self._make)) is not None:
                return made
        raise StopIteration


_PICTURES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}
_PICTURE_BYTES_MAX = 1 << 20


def _cell(value: Any) -> str:
    """Returns a value as HTML, which shows a picture."""
    if isinstance(value, bytes):
        kind = next((kind for magic, kind in _PICTURES.items() if value.startswith(magic)), None)
        if kind and len(value) <= _PICTURE_BYTES_MAX:
            import base64

            data = base64.b64encode(value).decode()
            return f'<img style="max-height: 8em" src="data:image/{kind};base64,{data}">'
        return f"{len(value)} bytes"
    import html

    text = str(value)
    return html.escape(text if len(text) <= 80 else f"{text[:77]}...")


class Result(Rows):
    """A stream of rows. Iteration, `batches` and Arrow's stream interface read it once; every other method first reads
    all rows into memory, where they stay.

    Only a few batches are read ahead, so that a result may be larger than memory:

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> for batch in lake.sql("SELECT 1 AS one").batches():
    ...     print(batch.to_pylist())
    [{'one': 1}]
    >>> for row in lake.sql("SELECT 1 AS one"):
    ...     print(row)
    {'one': 1}
    """

    def __init__(self, stream: _native.Stream) -> None:
        self._stream = stream
        self._read: _native.Rows | None = None

    @property
    def _native(self) -> _native.Rows:  # type: ignore[override]
        if self._read is None:
            self._read = self._stream.read()
        return self._read

    @property
    def schema(self) -> _native.Schema:
        return self._stream.schema

    @property
    def columns(self) -> list[str]:
        return [name for name, _, _, _ in self._stream.schema.fields()]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        if self._read is not None:
            return self._read.__arrow_c_stream__(requested_schema)
        return self._stream.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._stream.__arrow_c_schema__()

    def to_arrow(self) -> Any:
        # Read here, so that errors are Cenote's own.
        import pyarrow

        return pyarrow.table(Rows(self._native))

    def to_polars(self) -> polars.DataFrame:
        import polars

        return polars.DataFrame(Rows(self._native))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterates over the rows as dicts of Python values, holding some thousands: `batches` is faster."""
        if self._read is not None:
            return super().__iter__()
        self._stream.check_left()
        return _Walk(self)

    def batches(self) -> Iterator[Rows]:
        """Iterates over the rows, some thousands at a time.

        Ctrl-C and errors lose no rows: reading on gives the next batch, or the same error.
        """
        return self._each(Rows)

    def _each(self, make: Callable[[_native.Rows], Made]) -> Iterator[Made]:
        """Iterates over what `make` makes of each batch, or of all rows if they are in memory."""
        if self._read is not None:
            return map(make, [self._read])
        self._stream.check_left()
        return Given(self._stream, make)

    def __repr__(self) -> str:
        if self._read is not None:
            return super().__repr__()
        return f"<cenote.Result of {', '.join(self.columns)}, not read yet>"


class _Walk(Iterator[dict[str, Any]]):
    """An iterator over the rows of a result as dicts, which holds those of one batch."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._batches: Iterator[bool] | None = None

    def _begin(self, batch: _native.Rows) -> bool:
        self._rows = iter(batch.to_pylist())
        return True

    def __next__(self) -> dict[str, Any]:
        while True:
            for row in self._rows:
                return row
            if self._batches is None:
                # Not before: `list` makes the iterator, and then asks for the length, which reads all rows.
                self._batches = self._result._each(self._begin)
            next(self._batches)
