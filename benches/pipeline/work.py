"""What the peers do with a picture, by Pillow and ONNX Runtime, and the file that they write."""

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
    """The middle square as the model takes it, 3×224×224."""
    side = min(image.size) * SIDE / SHORT_SIDE
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    return ((numpy.asarray(square, numpy.float32) - 127) / 128).transpose(2, 0, 1)


class Embedder:
    """The model with one thread, so that as many as there are cores do not fight for them."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def embed(self, paths: list[str]) -> numpy.ndarray:
        """The vectors of these files. One picture a call: larger batches are no faster on one core, and ours does so too."""
        vectors = numpy.empty((len(paths), FEATURES), numpy.float32)
        for row, path in enumerate(paths):
            with Image.open(path) as image:
                # As our side does, the decoder may work at a reduced scale.
                image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))
                (vectors[row],) = self.session.run(["features"], {"image": prepare(image)[None]})[0]
        return vectors


def batch(paths: list[str], vectors: numpy.ndarray) -> pyarrow.RecordBatch:
    values = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
    columns = [pyarrow.array(paths, pyarrow.string()), pyarrow.FixedSizeListArray.from_arrays(values, FEATURES)]
    return pyarrow.record_batch(columns, SCHEMA)


def write(batches, path: str, start_s: float) -> None:
    """Writes the batches and prints how many pictures that were and the seconds since `start_s`."""
    images = 0
    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, SCHEMA) as writer:
        for one in batches:
            writer.write(one)
            images += one.num_rows
    print(json.dumps({"images": images, "seconds": time.perf_counter() - start_s}), flush=True)
