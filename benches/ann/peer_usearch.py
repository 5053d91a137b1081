"""usearch. Arguments: those of `work.py`, then the type of its stored numbers, such as `f32` or `i8`."""

import sys

import numpy
import work
from usearch.index import Index

index = Index(
    ndim=work.DIMENSION,
    metric="l2sq",
    dtype=sys.argv[7],
    connectivity=work.LINKS,
    expansion_add=work.WIDTH_BUILD,
)


def build() -> None:
    index.add(numpy.arange(len(work.BASE)), work.BASE, threads=work.THREADS)


def search(ef):
    index.expansion_search = ef
    return index.search(work.QUERIES, work.NEAREST, threads=1).keys


work.run(build, search, lambda: index.memory_usage)
