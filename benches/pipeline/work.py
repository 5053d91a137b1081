"""The work of the peers on a picture, by Pillow and ONNX Runtime, and the file that they write."""

import json
import time
from pathlib import Path

import numpy
import onnxruntime
import pyarrow
from PIL import Image

SIDE = 224
SHORT_SIDE = 256
FEATURES = 1280
VECTOR = pyarrow.list_(pyarrow.float32(), FEATURES)
SCHEMA = pyarrow.schema([("path", pyarrow.string()), ("vector", VECTOR)])
BATCH_ROWS = 64


def inputs(directory: str) -> list[str]:
    return sorted(str(path) for path in Path(directory).glob("*.jpg"))


def prepare(image: Image.Image) -> numpy.ndarray:
    """Returns the middle square as the model takes it, 3×224×224."""
    side = min(image.size) * SIDE / SHORT_SIDE
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    return ((numpy.asarray(square, numpy.float32) - 127) / 128).transpose(2, 0, 1)


class Embedder:
    """The model in one thread, so that one model per core does not oversubscribe the cores."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def embed(self, paths: list[str]) -> numpy.ndarray:
        """Returns the vectors of these files.

        It runs one picture per call, as Cenote does; larger batches are not faster on one core.
        """
        vectors = numpy.empty((len(paths), FEATURES), numpy.float32)
        for row, path in enumerate(paths):
            with Image.open(path) as image:
                # The decoder may work at a reduced scale, as Cenote's does.
                image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))
                (vectors[row],) = self.session.run(["features"], {"image": prepare(image)[None]})[0]
        return vectors


def batch(paths: list[str], vectors: numpy.ndarray) -> pyarrow.RecordBatch:
    values = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
    columns = [pyarrow.array(paths, pyarrow.string()), pyarrow.FixedSizeListArray.from_arrays(values, FEATURES)]
    return pyarrow.record_batch(columns, SCHEMA)


def write(batches, path: str, start_s: float) -> None:
    """Writes the batches, and prints the number of pictures and the seconds since `start_s`."""
    images = 0
    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, SCHEMA) as writer:
        for one in batches:
            writer.write(one)
            images += one.num_rows
    print(json.dumps({"images": images, "seconds": time.perf_counter() - start_s}), flush=True)
