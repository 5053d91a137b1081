"""Cenote: a lake for text, images, video and vectors, with operators, search, SQL and training loaders.

>>> import cenote, tempfile
>>> lake = cenote.open(tempfile.mkdtemp(), create=True)
>>> photos = lake.create_table("photos", {"id": str, "caption": str, "embedding": cenote.vector(2)}, primary_key="id")
>>> _ = photos.upsert([{"id": "a", "caption": "a red dress", "embedding": [1, 0]}])
>>> photos.search(vector=[1, 0], k=1).to_pylist()[0]["caption"]
'a red dress'
>>> lake.sql("SELECT caption FROM photos WHERE id = $1", "a").to_pylist()
[{'caption': 'a red dress'}]
"""

import os
import sys

from cenote import errors, op, types
from cenote._native import __version__
from cenote.errors import Error
from cenote.lake import Changes, Lake, Table, open
from cenote.loader import Batch, Buckets, Loader, Shuffle, Source, loader, merge_states
from cenote.operator import operator
from cenote.rows import Result, Rows
from cenote.types import Audio, Image, Media, Video, vector

# The interpreter with which the native part and the command line find ONNX Runtime and run converters: this one, not
# whichever is called `python3`.
if sys.executable:
    os.environ.setdefault("CENOTE_PYTHON", sys.executable)

__all__ = [
    "Audio",
    "Batch",
    "Buckets",
    "Changes",
    "Error",
    "Image",
    "Lake",
    "Loader",
    "Media",
    "Result",
    "Rows",
    "Shuffle",
    "Source",
    "Table",
    "Video",
    "__version__",
    "errors",
    "loader",
    "merge_states",
    "op",
    "open",
    "operator",
    "types",
    "vector",
]
