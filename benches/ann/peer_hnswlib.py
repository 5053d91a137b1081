"""hnswlib. Arguments: `work.py`."""

import hnswlib
import work

index = hnswlib.Index("l2", work.DIMENSION)


def build() -> None:
    index.init_index(len(work.BASE), M=work.LINKS, ef_construction=work.WIDTH_BUILD)
    index.add_items(work.BASE, num_threads=work.THREADS)
    index.set_num_threads(1)


def search(ef):
    index.set_ef(ef)
    return index.knn_query(work.QUERIES, work.NEAREST, num_threads=1)[0]


work.run(build, search, index.index_file_size)
