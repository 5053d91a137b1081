"""Transforms that loaders apply in Rust: to media columns, and `pack` to sequences.

>>> import cenote
>>> cenote.op.resize(256), cenote.op.center_crop(224)
(resize(height=256, width=None), center_crop(height=224, width=224))

What crops, resizes and flips come to is cut out of the picture and resampled once. Chance comes from the seed of the loader's
shuffle, the epoch and the row: a sample looks the same whoever loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Size = int | tuple[int, int]
"""A side of a square, or height and width, in pixels."""


class Transform:
    """A step from what a table holds to a tensor."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options

    def to_dict(self) -> dict[str, Any]:
        """The step as plain data."""
        return {"name": self.name, **self.options}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def _sides(size: Size) -> dict[str, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return {"height": height, "width": width}


def decode_image() -> Transform:
    """Reads a picture (JPEG, PNG, GIF, WebP, TIFF, BMP, ICO), upright, as RGB. The first of the transforms."""
    return Transform("decode_image")


def decode_video(frames: int, every: float | None = None, random: bool = False) -> Transform:
    """Reads `frames` frames of a video, upright, as RGB: `every` so many seconds, or spread over the whole video. A clip is the middle of its
    video, or begins anywhere in it if `random`; of a video that is shorter, the last frame comes again. No more is decoded than lies between
    the keyframe before the first and the last. All frames of a clip are cut, resized and mirrored alike.

    The first of the transforms. Tensors are rows × frames × height × width × 3, and with `normalize` rows × frames × 3 × height × width."""
    every_ms = None if every is None else round(every * 1000)
    return Transform("decode_video", frames=frames, every_ms=every_ms, random=random)


def resize(size: Size) -> Transform:
    """To (height, width), or, for one number, so that the shorter side has so many pixels."""
    return Transform("resize", height=size, width=None) if isinstance(size, int) else Transform("resize", **_sides(size))


def center_crop(size: Size) -> Transform:
    """The middle of the picture; one that is smaller is enlarged to cover it."""
    return Transform("center_crop", **_sides(size))


def random_resized_crop(
    size: Size, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Transform:
    """A part of random area (as a share, from and to) and proportions (width by height, from and to), resized."""
    return Transform("random_resized_crop", **_sides(size), scale=list(scale), ratio=list(ratio))


def random_horizontal_flip(probability: float = 0.5) -> Transform:
    """Left and right swapped, so likely."""
    return Transform("random_horizontal_flip", probability=probability)


def normalize(
    mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225)
) -> Transform:
    """Numbers from 0 to 1, less the mean and divided by the deviation, as `float32` of 3 × height × width; by default those of
    ImageNet. The last of the transforms; without it tensors are `uint8` of height × width × 3."""
    return Transform("normalize", mean=list(mean), std=list(std))


def pack(length: int, pad: int = 0) -> Transform:
    """The sequences of a batch, lists of whole numbers such as tokens, one after the other in blocks of `length`, as `int64` of blocks ×
    length. Of a column `tokens` a second one, `tokens_row`, says which row of the batch each number is of, and -1 where `pad` fills the last
    block up; from it come masks and positions. Rows stay whole within a batch, so resuming is as exact as without.

    >>> import cenote, tempfile
    >>> lake = cenote.open(tempfile.mkdtemp(), create=True)
    >>> import pyarrow as pa
    >>> schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("tokens", pa.list_(pa.int32()))])
    >>> texts = lake.create_table("texts", schema, primary_key="id")
    >>> _ = texts.upsert(pa.table({"id": [1, 2, 3], "tokens": [[5, 6], [7, 8, 9], [4]]}, schema=schema))
    >>> batch = next(iter(texts.loader(transform={"tokens": [cenote.op.pack(4)]}, output="numpy")))
    >>> batch["tokens"].tolist(), batch["tokens_row"].tolist()
    ([[5, 6, 7, 8], [9, 4, 0, 0]], [[0, 0, 1, 1], [1, 2, -1, -1]])
    """
    return Transform("pack", length=length, pad=pad)
