"""Checks a peer's file: `check_vectors.py INPUT FILE MODEL`.

Every picture must be there once; some vectors are computed again.
"""

import sys

import numpy
import pyarrow

import work

ROWS_COMPARED = 4


def main() -> None:
    expected = work.inputs(sys.argv[1])
    embedder = work.Embedder(sys.argv[3])
    with pyarrow.memory_map(sys.argv[2]) as file:
        table = pyarrow.ipc.open_file(file).read_all()
        paths = table.column("path").to_pylist()
        if sorted(paths) != expected:
            sys.exit(f"{len(expected)} pictures should be there once each, found {len(paths)} rows")
        for row in range(0, len(paths), max(1, len(paths) // ROWS_COMPARED)):
            found = numpy.asarray(table.column("vector")[row].values)
            again = embedder.embed([paths[row]])[0]
            cosine = float(found @ again / (numpy.linalg.norm(found) * numpy.linalg.norm(again)))
            if cosine < 0.98:
                sys.exit(f"the vector of {paths[row]} is another one: cosine {cosine:.3f}")


main()
