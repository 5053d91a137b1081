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
    """Declares a function, or a class whose instances are called, as an operator of its name.

    It is called with one array for each of `inputs` (`str`, `bytes`, `cenote.Image` and other media, `float`, `cenote.vector(n)`), which can
    be iterated and speaks Arrow, and answers as many values: a list, a numpy array, or an Arrow array of the type `output`. With a
    dict of outputs it answers a tuple.

    It runs in child processes, as many at once as `cpu` cores, `gpu` shares and `memory` are there for; each has an instance of its
    own of a class, so a model is loaded once a process. What the function uses goes along with it, by value from a script or a
    notebook and by name from a module (cloudpickle). A child sees the GPU that it has a share of, and no other; the lake has those that
    CUDA sees.

    - `batch`: rows a call at most. `auto` tries more and more for as long as that makes a row quicker, and fewer when memory runs out.
    - `memory`: what a child may have. One that takes more is killed, as is one whose call takes longer than `timeout` seconds, or whose
      start takes longer than that and a minute.

    Raise `version` whenever the same input may give another output: what was derived by the old one is then derived anew.

    When a call raises, its rows are tried in halves, and the rows that it raises on are nulls with the traceback in the error table. So
    are rows that a child crashes on or is killed at, up to 16 a batch; beyond that the run stops. Lakes that are opened afterwards know the
    operator.
    """
    if batch != "auto" and batch < 1:
        raise InvalidInputError(f'batch is 1 or more rows, or "auto", found {batch!r}')

    def declare(what: Declared) -> Declared:
        import inspect

        wanted = name or getattr(what, "__name__", "")
        if not wanted.isidentifier():
            raise InvalidInputError(f"an operator has a name such as count_words, found {wanted!r}: give one with `name`")
        outputs: Mapping[str, Any] = output if isinstance(output, Mapping) else {wanted: output}  # pyright: ignore[reportUnknownVariableType]
        ports = [(port, _port(kind)) for port, kind in inputs.items()]
        summary = (inspect.getdoc(what) or f"{wanted}, in Python").splitlines()[0]

        def launch() -> _Launch:
            return _Launch(what, outputs, batch)

        limits = _Limits(cpu, gpu, memory, timeout)
        _native.register(wanted, version, summary, ports, to_schema(dict(outputs)), launch, limits)
        return what

    return declare


class _Limits:
    """What one child holds."""

    def __init__(self, cpu: float, gpu: float, memory: str, timeout: float) -> None:
        self.cpu, self.gpu, self.memory, self.timeout = cpu, gpu, memory, timeout


class _Launch:
    """How a child is started, and what it is called with first."""

    def __init__(self, what: Callable[..., Any], outputs: Mapping[str, Any], batch: int | str) -> None:
        import cloudpickle

        self.program = sys.executable
        self.arguments = ["-c", f"import sys; sys.path[:] = {sys.path!r}; from cenote._child import main; main()"]
        self.first: bytes = cloudpickle.dumps((what, dict(outputs), batch))


def _port(kind: Any) -> str:
    known = type_name(kind)
    if not isinstance(known, str):
        raise InvalidInputError(f"an operator takes media, bytes, texts, vectors or numbers, found {kind!r}")
    return "number" if known.startswith(("int", "uint", "float")) else known
