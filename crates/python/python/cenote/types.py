"""Column types.

A schema is a dict from column to type. A type is one of these, a Python type, a type of pyarrow, or a name:

>>> import cenote
>>> schema = {"id": str, "picture": cenote.Image, "embedding": cenote.vector(512), "views": "int32"}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

from cenote import _native
from cenote.errors import InvalidInputError


class Type(NamedTuple):
    """A column type: its name in schemas and, for media, the kind of media."""

    name: str
    media: str | None = None

    def __repr__(self) -> str:
        return f"cenote.{self.media.capitalize()}" if self.media else f"cenote.Type({self.name!r})"


Image = Type("media", "image")
"""Encoded pictures: JPEG, PNG, GIF, WebP, TIFF, BMP or ICO."""
Video = Type("media", "video")
"""Encoded videos."""
Audio = Type("media", "audio")
"""Encoded sound."""
Media = Type("media", "media")
"""Bytes that are stored apart from other columns, and only read when the column is named."""


def vector(dimensions: int) -> Type:
    """Returns the type of vectors of `dimensions` 32-bit floats.

    >>> vector(512)
    cenote.Type('vector:512')
    """
    if dimensions < 1:
        raise InvalidInputError(f"a vector must have 1 number or more, found {dimensions}")
    return Type(f"vector:{dimensions}")


_PYTHON: dict[type, str] = {
    str: "string",
    int: "int64",
    float: "float64",
    bool: "bool",
    bytes: "bytes",
    datetime: "timestamp",
    date: "date",
}


def type_name(kind: Any) -> Any:
    """Returns the native name of a type; a type with `__arrow_c_schema__` is returned as it is."""
    if isinstance(kind, Type):
        return kind.name
    if isinstance(kind, type) and kind in _PYTHON:
        return _PYTHON[kind]
    return kind


def to_schema(schema: Any) -> Any:
    """Returns `schema` as an object with `__arrow_c_schema__`."""
    if isinstance(schema, Mapping):
        return _native.schema([(str(name), type_name(kind)) for name, kind in schema.items()])
    return schema
