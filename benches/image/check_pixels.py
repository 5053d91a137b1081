"""Checks a peer's file: `check_pixels.py INPUT FILE`. Each picture must be there once; some are compared with Pillow's.

Filters differ between libraries, so a picture passes when its average difference is small; a wrong channel order, size
or row makes a far larger one.
"""

import sys

import numpy
import pyarrow

import output
import peer_pil

ROWS_COMPARED = 8
# Levels of brightness, of 255. Pillow and the `image` crate differ by about 2 on photographs.
DIFFERENCE_MAX = 8


def main() -> None:
    expected = output.inputs(sys.argv[1])
    with pyarrow.memory_map(sys.argv[2]) as file:
        table = pyarrow.ipc.open_file(file).read_all()
        if table.schema != output.SCHEMA:
            sys.exit(f"schema should be {output.SCHEMA}, found {table.schema}")
        paths = table.column("path").to_pylist()
        if sorted(paths) != expected:
            sys.exit(f"{len(expected)} pictures should be there once each, found {len(paths)} rows")
        for row in range(0, len(paths), max(1, len(paths) // ROWS_COMPARED)):
            found = numpy.asarray(table.column("pixels")[row].values).astype(int)
            difference = numpy.abs(found - peer_pil.pixels(paths[row], draft=False).reshape(-1)).mean()
            if difference > DIFFERENCE_MAX:
                sys.exit(f"{paths[row]} differs from Pillow's by {difference:.1f} levels on average")


main()
