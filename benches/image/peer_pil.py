"""Pillow on one thread: `peer_pil.py INPUT OUTPUT [draft]`. With `draft`, libjpeg decodes at reduced scale."""

import sys
import time

import numpy
from PIL import Image

import output


def pixels(path: str, draft: bool) -> numpy.ndarray:
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (output.SIDE, output.SIDE))
        resized = image.convert("RGB").resize((output.SIDE, output.SIDE), Image.Resampling.BILINEAR)
    return numpy.asarray(resized)


def batches(paths: list[str], draft: bool):
    for first in range(0, len(paths), output.BATCH_ROWS):
        chosen = paths[first : first + output.BATCH_ROWS]
        block = numpy.empty((len(chosen), output.PIXELS_BYTES), numpy.uint8)
        for row, path in enumerate(chosen):
            block[row] = pixels(path, draft).reshape(-1)
        yield output.batch(chosen, block)


if __name__ == "__main__":
    start_s = time.perf_counter()
    output.write(batches(output.inputs(sys.argv[1]), "draft" in sys.argv[3:]), sys.argv[2], start_s)
