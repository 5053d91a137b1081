"""Reads that Ctrl-C or an error interrupts resume where they were, or fail again: they never end as if complete."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import threading

import pyarrow as pa
import pytest

import cenote
from cenote.errors import InvalidInputError


@pytest.fixture
def interrupted(monkeypatch, ctrl_c):
    """Interrupts every second batch by Ctrl-C while it is made."""
    made = []

    class Interrupted(cenote.Rows):
        def __init__(self, native) -> None:
            super().__init__(native)
            made.append(self)
            if len(made) % 2:
                signal.raise_signal(signal.SIGINT)

    for module in ("cenote.rows.Rows", "cenote.lake.Rows"):
        monkeypatch.setattr(module, Interrupted)
    return made


def read_on(batches) -> list[dict]:
    """Reads all rows, resuming after every interrupt."""
    rows, interrupts = [], 0
    while True:
        try:
            batch = next(batches, None)
        except KeyboardInterrupt:
            interrupts += 1
            continue
        if batch is None:
            assert interrupts
            assert next(batches, None) is None
            return rows
        rows += batch.to_pylist()


def test_a_stream_of_rows_goes_on_after_ctrl_c(numbers: cenote.Table, interrupted) -> None:
    result = numbers.scan(["id"], batch_rows=10)
    assert sorted(row["id"] for row in read_on(result.batches())) == list(range(100))
    for read in (result.batches, result.to_pylist):
        with pytest.raises(InvalidInputError, match="read already"):
            read()


def test_a_change_feed_goes_on_after_ctrl_c(numbers: cenote.Table, interrupted) -> None:
    start = numbers.version
    for id in range(5):
        numbers.upsert({"id": [100 + id]})
    changes = numbers.changes(start)
    assert [row["key"]["id"] for row in read_on(iter(changes))] == list(range(100, 105))
    assert changes.version == numbers.version
    numbers.delete([100])
    # A batch that was interrupted while it was made does not count as read.
    with pytest.raises(KeyboardInterrupt):
        next(iter(changes)) if len(interrupted) % 2 == 0 else (next(iter(changes)), next(iter(changes)))
    assert changes.version < numbers.version
    assert [row["operation"] for write in changes for row in write] == ["delete"]


def test_waiting_that_ctrl_c_ends_loses_nothing(numbers: cenote.Table, ctrl_c) -> None:
    join = "numbers a CROSS JOIN numbers b CROSS JOIN numbers c"
    result = numbers.lake.sql(
        f"SELECT md5(CAST(a.id AS TEXT) || '-' || CAST(b.id * 100 + c.id AS TEXT)) AS digest FROM {join}"
    )
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        len(result)
        timer.join()
        pytest.fail("it was read before anybody could interrupt it")
    assert len(result) == 1_000_000


def test_a_stream_that_failed_fails_again(lake: cenote.Lake) -> None:
    table = lake.create_table("t", {"id": int}, primary_key="id")
    table.upsert({"id": range(30_000)})
    query = "SELECT 10 / (id - 25000) AS share FROM t ORDER BY id"
    for read in (
        lambda result: result.to_pylist(),
        lambda result: list(result.batches()),
        lambda result: pa.table(result),
    ):
        result = lake.sql(query)
        for _ in range(3):
            with pytest.raises(
                (InvalidInputError, cenote.Error, pa.ArrowInvalid, OSError), match="(?i)divi.* zero|read already"
            ):
                read(result)
    batches = lake.sql(query).batches()
    for _ in range(3):
        with pytest.raises(cenote.Error, match="(?i)divi.* zero"):
            list(batches)


def test_a_result_that_was_kept_still_has_its_batches(numbers: cenote.Table) -> None:
    result = numbers.scan(["id"])
    assert len(result) == 100
    assert sum(len(batch) for batch in result.batches()) == 100
    handed_over = numbers.scan(["id"])
    pa.table(handed_over)
    with pytest.raises(InvalidInputError, match="read already"):
        handed_over.batches()
    # Reading may stop and resume.
    begun = numbers.scan(["id"], batch_rows=30)
    first = len(next(begun.batches()))
    with pytest.raises(InvalidInputError, match="in part"):
        begun.to_pylist()
    assert first + sum(len(batch) for batch in begun.batches()) == 100


def test_a_cancelled_task_loses_no_change(numbers: cenote.Table) -> None:
    start = numbers.version
    for id in range(20):
        numbers.upsert({"id": [100 + id]})

    async def follow() -> list[int]:
        seen: list[int] = []
        following = numbers.changes(start).follow(every=0.001)
        for turn in range(200):
            task = asyncio.ensure_future(anext(following))
            for _ in range(turn % 4):
                await asyncio.sleep(0.0005 * (turn % 3))
            if turn < 120:
                task.cancel()
            try:
                seen += [row["key"]["id"] for row in await asyncio.wait_for(task, 5)]
            except asyncio.CancelledError:
                pass
            if len(seen) == 20:
                break
        return seen

    assert asyncio.run(follow()) == list(range(100, 120))


def test_threads_share_a_feed_and_a_result(numbers: cenote.Table) -> None:
    start = numbers.version
    for id in range(40):
        numbers.upsert({"id": [100 + id]})
    changes, batches = numbers.changes(start), numbers.scan(["id"], batch_rows=5).batches()
    seen: list[int] = []

    def read() -> None:
        seen.extend(row["key"]["id"] for write in changes for row in write)
        seen.extend(row["id"] for batch in batches for row in batch)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted([*range(100, 140), *range(140)])


def test_ctrl_c_in_the_middle_of_values_is_no_fault_of_theirs(lake: cenote.Lake, monkeypatch) -> None:
    def interrupted(*arguments):
        raise KeyboardInterrupt

    table = lake.create_table("t", {"id": int, "at": datetime.date}, primary_key="id")
    monkeypatch.setattr("cenote._values.days", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.upsert([{"id": 1, "at": datetime.date(2026, 1, 31)}])
    monkeypatch.undo()
    table.upsert([{"id": 1, "at": datetime.date(2026, 1, 31)}])
    monkeypatch.setattr("cenote._values.from_days", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.get(1)
