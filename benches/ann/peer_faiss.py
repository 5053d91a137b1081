"""faiss, its HNSW over float32. Arguments: `work.py`."""

import faiss
import work

index = faiss.IndexHNSWFlat(work.DIMENSION, work.LINKS)
index.hnsw.efConstruction = work.WIDTH_BUILD


def build() -> None:
    faiss.omp_set_num_threads(work.THREADS)
    index.add(work.BASE)
    faiss.omp_set_num_threads(1)


def search(ef):
    index.hnsw.efSearch = ef
    return index.search(work.QUERIES, work.NEAREST)[1]


# Vectors, links of the base layer and labels, because faiss does not report its memory.
work.run(build, search, lambda: work.BASE.nbytes + len(work.BASE) * (2 * work.LINKS * 4 + 8))
