"""The epoch of each iteration of PyTorch's `DataLoader`.

Each iteration makes new worker processes, as copies of a parent that never learns that an iteration has begun: left to
themselves, all would be in the parent's epoch for ever. So workers keep notes in a file, under a lock: the first that
comes to an iteration decides where it starts, and the others start there too.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import tempfile
import uuid
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

State = Mapping[str, Any]
"""The state of a loader, as `Loader.state_dict` returns it."""

_ITERATIONS_KEPT = 16
"""The iterations that are kept of each parent: the newest, because older ones are over."""


class Notes:
    """The notes of a dataset's workers, which copies of this object share, in other processes too."""

    def __init__(self) -> None:
        self._path = os.path.join(tempfile.gettempdir(), f"cenote-epochs-{uuid.uuid4().hex}")
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (self._path,)

    def announce(self, moves: int, state: State) -> None:
        """Records in the parent, which has moved `moves` times, that the next iteration starts at `state`."""
        with self._open() as notes:
            notes[str(os.getpid())] = {"moves": moves, "state": state, "begun": {}}

    def start(self, iteration: str, moves: int, state: State, decide: Callable[[State, State | None], State]) -> State:
        """Returns the state at which `iteration` starts, for a worker whose parent had moved `moves` times, to `state`.

        The first worker that asks calls `decide` with the state of the parent and, if there was an iteration since the
        parent moved, the state at which the last one started.
        """
        parent = multiprocessing.parent_process()
        with self._open() as notes:
            mine = notes.setdefault(str(parent.pid if parent else None), {"moves": -1})
            if moves > mine["moves"]:
                mine.update(moves=moves, state=state, begun={})
            begun: dict[str, State] = mine["begun"]
            if iteration not in begun:
                before = list(begun.values())[-1] if begun else None
                begun[iteration] = decide(mine["state"], before)
                for old in list(begun)[:-_ITERATIONS_KEPT]:
                    del begun[old]
            return begun[iteration]

    @contextmanager
    def _open(self) -> Generator[dict[str, Any], None, None]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
            text = os.pread(file, os.fstat(file).st_size, 0).decode()
            notes: dict[str, Any] = _DECODER.raw_decode(text)[0] if text else {}
            yield notes
            # One call, which a killed worker has made or not. The rest of longer notes stays behind, and is not read.
            os.pwrite(file, json.dumps(notes).encode(), 0)
        finally:
            os.close(file)


_DECODER = json.JSONDecoder()


def _copy(path: str) -> Notes:
    notes = Notes.__new__(Notes)
    notes._path = path  # pyright: ignore[reportPrivateUsage]
    return notes


def _remove(path: str, process: int) -> None:
    # A child of a fork has a copy of the object that made the file.
    if process == os.getpid():
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
