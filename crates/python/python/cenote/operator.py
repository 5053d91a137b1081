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

import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from cenote import _native
from cenote.errors import InvalidInputError
from cenote.types import to_schema, type_name

Declared = TypeVar("Declared", bound=Callable[..., Any])


def operator(
    *,
    inputs: Mapping[str, Any],
    output: Any,
    version: int = 1,
    name: str | None = None,
    batch: int | Literal["auto"] = "auto",
    cpu: float = 1.0,
    gpu: float = 0.0,
    memory: str = "512 MiB",
    timeout: float = 600.0,
) -> Callable[[Declared], Declared]:
    """Declares a function, or a class whose instances are called, as an operator for lakes that are opened afterwards.

    The function is called with one array for each input, which is iterable and speaks Arrow, and returns one value
    per row: a list, a numpy array, or an Arrow array of the type `output`. With a dict of outputs it returns a tuple.

    It runs in child processes, as many at once as `cpu` cores, `gpu` shares and `memory` allow. Each process makes its
    own instance of a class, so that each process loads a model once. Whatever the function uses is sent along
    (by cloudpickle): by value from a script or a notebook, by name from a module. A child sees only the GPU of its
    share; a lake offers the GPUs that CUDA sees.

    When a call raises, its rows are retried in halves. The rows that raise become nulls, with the traceback in the
    error table, as do rows whose value does not fit the output, and rows on which a child crashes or is killed, up to
    16 per batch; beyond that the run stops.

    Args:
        inputs: The name and type of each input: `str`, `bytes`, `cenote.Image` or other media, `float`, or
            `cenote.vector(n)`.
        output: The type of the output, or a dict from the name to the type of each output.
        version: Raise it whenever the same input may give another output, so that derived values become stale.
        name: The operator's name (default: the function's).
        batch: The rows per call, at most. `auto` doubles them while that makes a row faster, and halves them when
            memory runs out.
        cpu: The cores of a child.
        gpu: The share of one GPU of a child, from 0 to 1.
        memory: The memory of a child and of the processes that it starts, which are killed if they take more.
        timeout: The seconds of a call, at most. A child that takes longer is killed, as is one that takes longer than
            both this and a minute to start.
    """
    if batch != "auto" and batch < 1:
        raise InvalidInputError(f'batch must be 1 or more rows, or "auto", found {batch!r}')

    def declare(what: Declared) -> Declared:
        import inspect

        wanted = name or getattr(what, "__name__", "")
        if not wanted.isidentifier():
            raise InvalidInputError(f"an operator needs a name such as count_words, found {wanted!r}: give a `name`")
        outputs: Mapping[str, Any] = output if isinstance(output, Mapping) else {wanted: output}  # pyright: ignore
        ports = [(port, _port(kind)) for port, kind in inputs.items()]
        summary = (inspect.getdoc(what) or f"{wanted}, in Python").splitlines()[0]

        def launch() -> _Launch:
            return _Launch(what, outputs, batch)

        limits = _Limits(cpu, gpu, memory, timeout)
        _native.register(wanted, version, summary, ports, to_schema(dict(outputs)), launch, limits)
        return what

    return declare


class _Limits:
    """The resources of one child, and its time limit."""

    def __init__(self, cpu: float, gpu: float, memory: str, timeout: float) -> None:
        self.cpu, self.gpu, self.memory, self.timeout = cpu, gpu, memory, timeout


class _Launch:
    """The program and arguments of a child, and the bytes that it receives first."""

    def __init__(self, what: Callable[..., Any], outputs: Mapping[str, Any], batch: int | str) -> None:
        import cloudpickle

        self.program = sys.executable
        self.arguments = ["-c", f"import sys; sys.path[:] = {sys.path!r}; from cenote._child import main; main()"]
        self.first: bytes = cloudpickle.dumps((what, dict(outputs), batch))


def _port(kind: Any) -> str:
    known = type_name(kind)
    if not isinstance(known, str):
        raise InvalidInputError(f"an input must be media, bytes, text, a vector or a number, found {kind!r}")
    return "number" if known.startswith(("int", "uint", "float")) else known
