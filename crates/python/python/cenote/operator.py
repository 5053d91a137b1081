"""Operators in Python, for recipes and SQL beside Cenote's own.

>>> import cenote, tempfile
>>> @cenote.operator(inputs={"text": str}, output=int, version=1)
... def count_vowels(texts):
...     return [None if text is None else sum(letter in "aeiou" for letter in text) for text in texts]
>>> lake = cenote.open(tempfile.mkdtemp(), create=True)
>>> notes = lake.create_table("notes", {"id": int, "note": str}, primary_key="id")
>>> _ = notes.upsert([{"id": 1, "note": "two words"}])
>>> _ = lake.run("{ name: r, steps: [ { table: notes, operator: count_vowels, input: note, output: vowels } ] }")
>>> notes.get(1)
{'id': 1, 'note': 'two words', 'vowels': 2}
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cenote import _native
from cenote.errors import InvalidInputError
from cenote.types import to_schema, type_name

Declared = TypeVar("Declared", bound=Callable[..., Any])

_TRACEBACK_LINES = 8


def operator(
    *,
    inputs: Mapping[str, Any],
    output: Any,
    version: int = 1,
    name: str | None = None,
    cpu: float = 1.0,
) -> Callable[[Declared], Declared]:
    """Declares a function, or a class whose instances are called, as an operator of its name.

    It is called with one array for each of `inputs` (`str`, `bytes`, `cenote.Image` and other media, `float`, `cenote.vector(n)`), which can
    be iterated and speaks Arrow, and answers as many values: a list, a numpy array, or an Arrow array of the type `output`. With a
    dict of outputs it answers a tuple. Of a class each thread has an instance of its own, made when it is first needed, so a model
    is loaded once a thread.

    Raise `version` whenever the same input may give another output: what was derived by the old one is then derived anew.

    When a call raises, its rows are tried in halves, and the rows that it raises on are nulls with the traceback in the error table.
    Lakes that are opened afterwards know the operator.
    """

    def declare(what: Declared) -> Declared:
        wanted = name or getattr(what, "__name__", "")
        if not wanted.isidentifier():
            raise InvalidInputError(f"an operator has a name such as count_words, found {wanted!r}: give one with `name`")
        outputs: Mapping[str, Any] = output if isinstance(output, Mapping) else {wanted: output}  # pyright: ignore[reportUnknownVariableType]
        ports = [(port, _port(kind)) for port, kind in inputs.items()]
        summary = (inspect.getdoc(what) or f"{wanted}, in Python").splitlines()[0]

        def make() -> Call:
            function: Any = what() if inspect.isclass(what) else what
            return Call(function, len(outputs))

        _native.register(wanted, version, summary, ports, to_schema(dict(outputs)), make, cpu)
        return what

    return declare


def _port(kind: Any) -> str:
    known = type_name(kind)
    if not isinstance(known, str):
        raise InvalidInputError(f"an operator takes media, bytes, texts, vectors or numbers, found {kind!r}")
    return "number" if known.startswith(("int", "uint", "float")) else known


class Call:
    """What a thread calls with columns: answers the values of each output, and the rows that failed."""

    def __init__(self, function: Callable[..., Any], outputs: int) -> None:
        self._function = function
        self._outputs = outputs

    def __call__(self, columns: Sequence[_native.Column]) -> tuple[list[Any], list[tuple[int, str]]]:
        rows = len(columns[0]) if columns else 0
        try:
            return self._checked(self._function(*columns), rows), []
        except InvalidInputError:
            raise
        except Exception as error:
            if rows == 0:
                raise
            values: list[list[Any]] = [[None] * rows for _ in range(self._outputs)]
            errors: list[tuple[int, str]] = []
            self._sift(columns, 0, rows, values, errors, error)
            return list(values), errors

    def _sift(
        self,
        columns: Sequence[_native.Column],
        start: int,
        rows: int,
        values: list[list[Any]],
        errors: list[tuple[int, str]],
        error: Exception,
    ) -> None:
        """Halves what raised `error` until single rows are to blame."""
        if rows == 1:
            errors.append((start, _reason(error)))
            return
        half = rows // 2
        for begin, count in ((start, half), (start + half, rows - half)):
            part = [column.slice(begin, count) for column in columns]
            try:
                made = self._checked(self._function(*part), count)
            except InvalidInputError:
                raise
            except Exception as again:
                self._sift(columns, begin, count, values, errors, again)
            else:
                for column, new in zip(values, made, strict=True):
                    column[begin : begin + count] = list(new)

    def _checked(self, answer: Any, rows: int) -> list[Any]:
        """One sequence of `rows` values for each output."""
        made = list(answer) if self._outputs > 1 else [answer]
        if len(made) != self._outputs:
            raise InvalidInputError(f"it answered {len(made)} columns, and has {self._outputs} outputs")
        for values in made:
            if not hasattr(values, "__len__"):
                raise InvalidInputError(f"it answered a {type(values).__name__}, and not one value a row")
            if len(values) != rows:
                raise InvalidInputError(f"it answered {len(values)} values for {rows} rows")
        return made


def _reason(error: Exception) -> str:
    """The error, and where in the operator it was raised."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    text = "".join(lines).rstrip().splitlines()
    return "\n".join([f"{type(error).__name__}: {error}", *text[-_TRACEBACK_LINES:]])
