"""The child process of an operator in Python, which runs `main`."""

from __future__ import annotations

import inspect
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cenote import _native
from cenote.errors import InvalidInputError, UnavailableError
from cenote.types import to_schema

_TRACEBACK_LINES = 8
"""The lines of a traceback that an error keeps."""
_REASON_CHARS = 1_000
"""The characters of a line of a reason that are kept."""
_ROWS_FIRST = 16
"""The rows of the first call with `auto`."""
_WORTH_IT = 1.1
"""The gain in rows a second for which the rows of a call are doubled again."""


def main() -> None:
    """Serves the parent over standard input until it closes the connection."""
    # Ctrl-C is meant for the parent, which ends this process by closing the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _native.serve(_set_up)
    except UnavailableError:
        # The parent is gone, so nobody receives a message.
        sys.exit(1)


def _set_up(first: bytes) -> tuple[Any, Call]:
    """Returns the schema of the outputs, and the object that is called with columns."""
    try:
        what, outputs, batch = pickle.loads(first)
        function: Any = what() if inspect.isclass(what) else what
    except BaseException as error:
        raise InvalidInputError(reason(error)) from error
    return to_schema(outputs), Call(function, len(outputs), batch)


class Call:
    """Calls the function batch by batch, and yields (rows, values of each output, rows that failed) for each call."""

    def __init__(self, function: Callable[..., Any], outputs: int, batch: int | str) -> None:
        self._function = function
        self._outputs = outputs
        self._size = BatchSize(batch)

    def __call__(self, columns: Sequence[_native.Column]) -> Iterator[tuple[int, list[Any], list[tuple[int, str]]]]:
        total, start = len(columns[0]), 0
        while start < total:
            rows = min(self._size.rows, total - start)
            part = [column.slice(start, rows) for column in columns]
            begin = time.perf_counter()
            try:
                answer = self._called(part)
            # An operator that calls `sys.exit` does not end the run either.
            except BaseException as error:
                if _is_out_of_memory(error):
                    self._size.too_large(rows)
                values, errors = self._sifted(part, rows, error)
            else:
                values, errors = self._checked(answer, rows), []
                self._size.took(rows, time.perf_counter() - begin)
            yield rows, values, errors
            start += rows

    def _sifted(
        self, columns: Sequence[_native.Column], rows: int, error: BaseException
    ) -> tuple[list[Any], list[tuple[int, str]]]:
        """Returns the values of rows some of which raised `error`, retried in halves until single rows are to blame."""
        values: list[list[Any]] = [[None] * rows for _ in range(self._outputs)]
        errors: list[tuple[int, str]] = []

        def sift(start: int, rows: int, error: BaseException) -> None:
            if rows == 1:
                errors.append((start, reason(error)))
                return
            half = rows // 2
            for begin, count in ((start, half), (start + half, rows - half)):
                try:
                    answer = self._called([column.slice(begin, count) for column in columns])
                except BaseException as again:
                    sift(begin, count, again)
                else:
                    for column, new in zip(values, self._checked(answer, count), strict=True):
                        column[begin : begin + count] = list(new)

        sift(0, rows, error)
        return list(values), errors

    def _called(self, columns: Sequence[_native.Column]) -> list[Any]:
        """Returns what the function makes of the columns, a list unless it is Arrow data or has no length."""
        answer = self._function(*columns)
        made = list(answer) if self._outputs > 1 else [answer]
        is_data = [hasattr(values, "__arrow_c_array__") or not hasattr(values, "__len__") for values in made]
        return [values if whole else list(values) for values, whole in zip(made, is_data, strict=True)]

    def _checked(self, made: list[Any], rows: int) -> list[Any]:
        """Returns what the function made: one sequence of `rows` values for each output."""
        if len(made) != self._outputs:
            raise InvalidInputError(f"it returned {len(made)} columns, and has {self._outputs} outputs")
        for values in made:
            if not hasattr(values, "__len__"):
                raise InvalidInputError(f"it returned a {type(values).__name__} instead of one value a row")
            if len(values) != rows:
                raise InvalidInputError(f"it returned {len(values)} values for {rows} rows")
        return made


class BatchSize:
    """The number of rows per call: a fixed one, or, for `auto`, one that doubles while that makes a row faster.

    Either number is halved when memory runs out.
    """

    def __init__(self, batch: int | str) -> None:
        self.rows = _ROWS_FIRST if batch == "auto" else int(batch)
        self._grows = batch == "auto"
        self._rate = 0.0

    def took(self, rows: int, seconds: float) -> None:
        """Records that a call with `rows` rows took `seconds`."""
        # The last call of a batch often has fewer rows, whose rate says little.
        if not self._grows or rows < self.rows:
            return
        rate = rows / max(seconds, 1e-9)
        if rate > self._rate * _WORTH_IT:
            self.rows, self._rate = self.rows * 2, rate
        else:
            self.rows, self._grows = self.rows // 2, False

    def too_large(self, rows: int) -> None:
        """Records that a call with `rows` rows ran out of memory."""
        self.rows, self._grows = max(1, rows // 2), False


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch's error is not a MemoryError.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def reason(error: BaseException) -> str:
    """Describes the error, and where in the operator it was raised."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    text = "".join(lines).rstrip().splitlines()
    what = type(error).__name__
    try:
        what = f"{what}: {error}"
    # The error is the operator's, and so is what describes it.
    except BaseException as again:
        what = f"{what}, whose description raised {type(again).__name__}"
    shown = "\n".join(line[:_REASON_CHARS] for line in [what, *text[-_TRACEBACK_LINES:]])
    # Half a surrogate pair is not text elsewhere.
    return shown.encode(errors="backslashreplace").decode()
