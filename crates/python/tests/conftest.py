"""Fixtures that the tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import cenote


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[cenote.Lake]:
    with cenote.open(tmp_path / "lake", create=True, memory="512 MiB") as lake:
        yield lake


@pytest.fixture
def numbers(lake: cenote.Lake) -> cenote.Table:
    """Creates a table of 100 rows with the ids 0 to 99."""
    table = lake.create_table("numbers", {"id": int, "word": str, "at": cenote.vector(2)}, primary_key="id")
    table.upsert({"id": range(100), "word": [f"w{id}" for id in range(100)], "at": [[id, -id] for id in range(100)]})
    return table


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Lets SIGINT interrupt the test, which a shell that starts it in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
