"""Daft, its native runner with its own image functions: `peer_daft.py INPUT OUTPUT`."""

import os
import sys
import time

os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["DAFT_PROGRESS_BAR"] = "0"

import daft
import pyarrow
from daft import DataType, col
from daft.functions import decode_image, download, resize

import output


def batches(paths: list[str]):
    picture = decode_image(download(col("path")), mode="RGB")
    pixels = resize(picture, output.SIDE, output.SIDE).cast(DataType.image("RGB", output.SIDE, output.SIDE))
    frame = daft.from_pydict({"path": paths}).select(col("path"), pixels.alias("pixels"))
    for one in frame.to_arrow_iter():
        column = one.column("pixels")
        storage = column.storage if isinstance(column, pyarrow.ExtensionArray) else column
        columns = [one.column("path").cast(pyarrow.string()), storage.cast(output.PIXELS)]
        yield pyarrow.record_batch(columns, output.SCHEMA)


if __name__ == "__main__":
    start_s = time.perf_counter()
    output.write(batches(output.inputs(sys.argv[1])), sys.argv[2], start_s)
