"""Operators in Python: rows that they raise on, and answers that cannot be."""

from __future__ import annotations

import numpy
import pytest

import cenote


def recipe(operator: str, output: str = "made") -> str:
    return f"{{ name: r, steps: [ {{ table: numbers, operator: {operator}, input: word, output: {output} }} ] }}"


def run(path, operator: str):
    lake = cenote.open(path, create=True, memory="512 MiB")
    if "numbers" not in lake.tables():
        table = lake.create_table("numbers", {"id": int, "word": str}, primary_key="id")
        table.upsert({"id": range(20), "word": [f"w{id}" for id in range(20)]})
    return lake, lake.run(recipe(operator))[0]


def test_a_class_is_made_once_a_thread_and_gives_vectors(tmp_path) -> None:
    made = []

    @cenote.operator(inputs={"text": str}, output=cenote.vector(2), name="embed_word")
    class Embed:
        """Numbers of a word."""

        def __init__(self) -> None:
            made.append(self)

        def __call__(self, texts):
            return numpy.array([[len(text), 1] for text in texts], "float32")

    lake, report = run(tmp_path, "embed_word")
    assert report["rows_processed"] == 20 and report["rows_failed"] == 0
    assert lake["numbers"].get(12)["made"] == [3.0, 1.0]
    assert 1 <= len(made) <= (__import__("os").cpu_count() or 1)
    assert lake.operators()["embed_word"] == "Numbers of a word."
    # Nothing changed, so nothing is done again.
    assert lake.run(recipe("embed_word"))[0]["rows_processed"] == 0


def test_a_row_that_it_raises_on_is_a_null_with_the_traceback(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=int)
    def parse_word(texts):
        return [100 // (int(text[1:]) - 7) for text in texts]

    lake, report = run(tmp_path, "parse_word")
    assert report["rows_failed"] == 1
    assert lake["numbers"].get(7)["made"] is None
    assert lake["numbers"].get(8)["made"] == 100
    (error,) = lake.errors("numbers")
    assert "ZeroDivisionError" in error["reason"] and "parse_word" in error["reason"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda texts: [1], "answered 1 values for"),
        (lambda texts: None, "answered a NoneType"),
        (lambda texts: ["x"] * len(texts), "is Int64, and row 0 has 'x'"),
    ],
    ids=["length", "nothing", "type"],
)
def test_answers_that_cannot_be_stop_the_run(tmp_path, answer, says: str) -> None:
    cenote.operator(inputs={"text": str}, output=int, name="answer_wrong")(answer)
    with pytest.raises(cenote.Error, match=says):
        run(tmp_path, "answer_wrong")


def test_operators_are_functions_in_sql(tmp_path) -> None:
    @cenote.operator(inputs={"text": str}, output=str)
    def shout_word(texts):
        return [None if text is None else text.upper() for text in texts]

    lake, _ = run(tmp_path, "shout_word")
    assert lake.sql("SELECT shout_word(word) AS s FROM numbers WHERE id = 3").to_pylist() == [{"s": "W3"}]
