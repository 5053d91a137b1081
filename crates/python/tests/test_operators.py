"""Operators in Python: rows on which they raise, and wrong answers."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest

import cenote
from cenote.errors import InvalidInputError, ResourceExhaustedError


def recipe(operator: str, output: str = "made") -> str:
    return f"{{ name: r, steps: [ {{ table: numbers, operator: {operator}, input: word, output: {output} }} ] }}"


def run(path, operator: str, rows: int = 20, output: str = "made"):
    lake = cenote.open(path, create=True, memory="2 GiB")
    if "numbers" not in lake.tables():
        table = lake.create_table("numbers", {"id": int, "word": str}, primary_key="id")
        table.upsert({"id": range(rows), "word": [f"w{id}" for id in range(rows)]})
    return lake, lake.run(recipe(operator, output))[0]


def made(lake: cenote.Lake) -> list:
    return [row["made"] for row in sorted(lake["numbers"].read(), key=lambda row: row["id"])]


def test_a_class_is_made_once_a_process_and_gives_vectors(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=cenote.vector(2), name="embed_word", batch=3)
    class Embed:
        """Numbers of a word."""

        def __init__(self) -> None:
            self.process = os.getpid()
            self.calls = 0

        def __call__(self, texts):
            self.calls += 1
            assert self.process == os.getpid()
            return numpy.array([[len(text), self.calls] for text in texts], "float32")

    lake, report = run(tmp_path, "embed_word")
    assert report["rows_processed"] == 20 and report["rows_failed"] == 0
    calls = [calls for _, calls in made(lake)]
    assert max(calls) > 1 and all(calls.count(call) <= 3 * (os.cpu_count() or 1) for call in calls)
    assert lake["numbers"].get(12)["made"][0] == 3
    assert lake.operators()["embed_word"] == "Numbers of a word."
    # Nothing changed, so no row is processed again.
    assert lake.run(recipe("embed_word"))[0]["rows_processed"] == 0


def test_it_runs_in_another_process_with_what_it_uses(tmp_path) -> None:
    word = "closed over"

    @cenote.operator(inputs={"text": str}, output={"pid": int, "said": str}, batch=7)
    def say_word(texts):
        return [os.getpid()] * len(texts), [f"{word}: {len(texts)}"] * len(texts)

    lake, _ = run(tmp_path, "say_word", output="{ pid: made_pid, said: made_said }")
    rows = lake["numbers"].read()
    assert os.getpid() not in {row["made_pid"] for row in rows}
    assert {row["made_said"] for row in rows} <= {f"closed over: {size}" for size in range(1, 8)}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda texts: [1], "returned 1 values for"),
        (lambda texts: None, "returned a NoneType"),
    ],
    ids=["length", "nothing"],
)
def test_answers_that_cannot_be_stop_the_run(tmp_path, answer, says: str) -> None:
    cenote.operator(inputs={"text": str}, output=int, name="answer_wrong")(answer)
    with pytest.raises(cenote.Error, match=says):
        run(tmp_path, "answer_wrong")


class Undescribed(Exception):
    def __str__(self) -> str:
        raise ValueError("no description")


def raises(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: "x", "^output `wrong_word` is declared as FixedSizeList.*, found 'x'"),
        (lambda: [1.0, "x"], "found \\[1.0, 'x'\\]"),
        (lambda: [1.0], "vectors of 2 numbers, and row 0 has 1$"),
        (lambda: [1.0, float("nan")], "^output `made` is a vector with a number that is NaN, infinite or null$"),
        (lambda: [float("-inf"), 1.0], "NaN, infinite or null"),
        (lambda: raises(SystemExit(3)), "^SystemExit: 3"),
        (lambda: raises(KeyboardInterrupt()), "^KeyboardInterrupt"),
        (lambda: raises(InvalidInputError("not this one")), "^InvalidInputError: not this one"),
        (lambda: raises(Undescribed()), "^Undescribed, whose description raised ValueError"),
        (lambda: raises(ValueError("\ud800")), r"^ValueError: \\ud800"),
    ],
)
def test_a_bad_value_is_a_bad_row(tmp_path, value, says: str) -> None:
    @cenote.operator(inputs={"text": str}, output=cenote.vector(2))
    def wrong_word(texts):
        return [value() if text == "w11" else [len(text), 1.5] for text in texts]

    lake, report = run(tmp_path, "wrong_word")
    assert (report["rows_processed"], report["rows_failed"]) == (20, 1)
    assert made(lake) == [None if id == 11 else [2.0 if id < 10 else 3.0, 1.5] for id in range(20)]
    (error,) = lake.errors("numbers")
    assert re.search(says, error["reason"]), error["reason"]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was lost \\(signal: 11"),
        (lambda: time.sleep(100), "it took longer than 2s"),
        (lambda: bytearray(b"x") * (1 << 30), "more than 400"),
    ],
    ids=["crashes", "hangs", "eats memory"],
)
def test_a_row_that_ends_the_process_is_set_aside(tmp_path, end, says: str) -> None:
    @cenote.operator(inputs={"text": str}, output=str, memory="400 MiB", timeout=2)
    def end_word(texts):
        if "w11" in list(texts):
            eaten = end()
            time.sleep(1)
            del eaten
        return [text.upper() for text in texts]

    lake, report = run(tmp_path, "end_word")
    assert report["rows_failed"] == 1
    assert made(lake) == [None if id == 11 else f"W{id}" for id in range(20)]
    (error,) = lake.errors("numbers")
    assert re.search(says, error["reason"]), error["reason"]


def test_only_the_process_that_was_called_answers(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str, name="fork_once")
    class ForkOnce:
        has_forked = False

        def __call__(self, texts):
            if not self.has_forked:
                self.has_forked = True
                os.fork()
            return [text.upper() for text in texts]

    lake, _ = run(tmp_path, "fork_once", rows=400)
    assert made(lake) == [f"W{id}" for id in range(400)]


def alive(pid: int) -> bool:
    try:
        # A zombie that waits to be reaped has ended.
        return "State:\tZ" not in open(f"/proc/{pid}/status").read()
    except FileNotFoundError:
        return False


def wait_for(condition, what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def test_a_busy_child_and_what_it_started_end_with_its_killed_parent(tmp_path) -> None:
    program = """
import os, subprocess, sys, time
from pathlib import Path
import cenote

pids = sys.argv[1]

@cenote.operator(inputs={"text": str}, output=str)
def stay(texts):
    started = subprocess.Popen(["sleep", "1000"], stdin=None)
    Path(pids, f"{os.getpid()} {started.pid}").touch()
    while True:
        pass

lake = cenote.open(sys.argv[2], create=True)
table = lake.create_table("t", {"id": int, "word": str}, primary_key="id")
table.upsert([{"id": 1, "word": "w"}])
lake.run("{ name: r, steps: [ { table: t, operator: stay, input: word, output: made } ] }")
"""
    pids = tmp_path / "pids"
    pids.mkdir()
    with subprocess.Popen([sys.executable, "-c", program, pids, tmp_path / "lake"]) as parent:
        try:
            wait_for(lambda: any(pids.iterdir()), "no child came to its call")
        finally:
            parent.kill()
    (started,) = pids.iterdir()
    for pid in map(int, started.name.split()):
        wait_for(lambda pid=pid: not alive(pid), "a child outlives its parent")


def test_a_long_reason_is_cut(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str)
    def fail_at_length(texts):
        if "w3" in list(texts):
            raise ValueError("y" * 1_000_000)
        return list(texts)

    lake, _ = run(tmp_path, "fail_at_length")
    (error,) = lake.errors("numbers")
    assert error["reason"].startswith("ValueError: yyy") and len(error["reason"]) < 10_000


def test_an_operator_that_ends_the_process_on_every_row_stops_the_run(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str)
    def end_always(texts):
        os._exit(3)

    with pytest.raises(cenote.Error, match="after 16 bad rows.*exit status: 3"):
        run(tmp_path, "end_always", rows=400)


def test_an_operator_that_cannot_be_made_stops_the_run_with_its_traceback(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str)
    class OpenNothing:
        def __init__(self) -> None:
            open("/nowhere/model.bin")

        def __call__(self, texts):
            return texts

    with pytest.raises(InvalidInputError, match='FileNotFoundError(.|\n)*open\\("/nowhere'):
        run(tmp_path, "OpenNothing")


def test_a_batch_that_memory_has_no_room_for_is_made_smaller(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=int, batch=20)
    class Room:
        def __init__(self) -> None:
            self.refused = 0

        def __call__(self, texts):
            if len(texts) > 5:
                self.refused += 1
                raise MemoryError("no room")
            return [self.refused] * len(texts)

    lake, report = run(tmp_path, "Room")
    assert report["rows_failed"] == 0
    assert set(made(lake)) <= {1, 2, 3}


def test_a_share_of_a_gpu_is_given_out_by_device(tmp_path, monkeypatch) -> None:
    @cenote.operator(inputs={"text": str}, output=str, gpu=0.5, name="see_gpu")
    def see(texts):
        return [os.environ["CUDA_VISIBLE_DEVICES"]] * len(texts)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        ResourceExhaustedError, match="500 of resource `thousandths of a GPU` were asked for; this process has 0"
    ):
        run(tmp_path, "see_gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    lake, _ = run(tmp_path, "see_gpu")
    assert set(made(lake)) == {"GPU-7"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu": 2}, "from 0 to 1, found 2"),
        ({"batch": 0}, "1 or more rows"),
        ({"memory": "much"}, "much"),
        ({"timeout": -1}, "seconds, found -1"),
        ({"inputs": {"x": bool}}, "a number or a vector, found `bool`"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_at_once(options, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        cenote.operator(**{"inputs": {"x": str}, "output": str, "name": "declare_wrong", **options})(
            lambda texts: texts
        )


def test_operators_are_functions_in_sql(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str)
    def shout_word(texts):
        return [None if text is None else text.upper() for text in texts]

    lake, _ = run(tmp_path, "shout_word")
    assert lake.sql("SELECT shout_word(word) AS s FROM numbers WHERE id = 3").to_pylist() == [{"s": "W3"}]


def test_a_lake_opens_with_a_device_or_says_which_there_are(tmp_path):
    with cenote.open(tmp_path / "lake", create=True, device="auto") as lake:
        assert lake.tables() == []
        assert pickle.loads(pickle.dumps(lake)).tables() == []
    with pytest.raises(InvalidInputError, match="there are auto, cpu, gpu, software"):
        cenote.open(tmp_path / "lake", device="tpu")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_call_that_a_child_is_in(tmp_path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()

    @cenote.operator(inputs={"text": str}, output=str, name="sleep_long")
    def sleep_long(texts):
        (pids / str(os.getpid())).touch()
        time.sleep(300)
        return texts

    def interrupt() -> None:
        while not any(pids.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "lake", "sleep_long")
    wait_for(lambda: not any(alive(int(path.name)) for path in pids.iterdir()), "a child outlives its run")
