"""What the tests share."""

from __future__ import annotations

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
    """100 rows with the ids 0 to 99."""
    table = lake.create_table("numbers", {"id": int, "word": str, "at": cenote.vector(2)}, primary_key="id")
    table.upsert({"id": range(100), "word": [f"w{id}" for id in range(100)], "at": [[id, -id] for id in range(100)]})
    return table
