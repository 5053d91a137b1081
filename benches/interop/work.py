"""The work of both contestants of `make bench-interop`: answer a SQL query and hand the answer to Polars.

Arguments: `make ROWS DIRECTORY` writes the table, `read ROWS DIRECTORY` measures and prints one JSON line.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import polars
import pyarrow

QUERY = "SELECT id, value, word FROM numbers WHERE id >= 0"
TURNS = 3
CHUNK = 1_000_000
SCHEMA = pyarrow.schema([
    pyarrow.field("id", pyarrow.int64(), nullable=False),
    pyarrow.field("value", pyarrow.float64()),
    pyarrow.field("word", pyarrow.string()),
])


def chunks(rows: int) -> Iterator[pyarrow.RecordBatch]:
    words = numpy.array([f"word {number}" for number in range(1000)])
    for first in range(0, rows, CHUNK):
        ids = numpy.arange(first, min(first + CHUNK, rows))
        yield pyarrow.record_batch([ids, ids / 3, pyarrow.array(words[ids % len(words)])], schema=SCHEMA)


def run(
    make: Callable[[pyarrow.RecordBatchReader, str], None],
    to_polars: Callable[[str], Callable[[], polars.DataFrame]],
    copied: Callable[[str], dict[str, Any]],
) -> None:
    """Makes the table or measures the query, as the arguments say.

    `make` writes rows, `to_polars` opens them and returns a function that answers the query, and `copied` returns
    further entries of the report.
    """
    rows, directory = int(sys.argv[2]), sys.argv[3]
    if sys.argv[1] == "make":
        return make(pyarrow.RecordBatchReader.from_batches(SCHEMA, chunks(rows)), directory)
    answer = to_polars(directory)
    times_s = []
    for _ in range(TURNS):
        start_s = time.perf_counter()
        frame = answer()
        times_s.append(time.perf_counter() - start_s)
        word_bytes = int(frame["word"].str.len_bytes().sum())
        report = {"rows": len(frame), "id_sum": int(frame["id"].sum()), "word_bytes": word_bytes}
        del frame
    report |= {"first_s": times_s[0], "again_s": min(times_s[1:]), **copied(directory)}
    print(json.dumps(report), flush=True)
