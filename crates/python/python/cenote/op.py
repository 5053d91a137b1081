"""Transforms that loaders apply in Rust: to media columns, or, in the case of `pack`, to sequences.

>>> import cenote
>>> cenote.op.resize(256), cenote.op.center_crop(224)
(resize(height=256, width=None), center_crop(height=224, width=224))

Crops, resizes and flips are composed, and the picture is resampled once. Random numbers come from the seed of the
loader's shuffle, the epoch and the row, so that a sample looks the same whichever process loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Size = int | tuple[int, int]
"""A side of a square, or height and width, in pixels."""


class Transform:
    """A step from a value of a table to a tensor."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def _sides(size: Size) -> dict[str, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return {"height": height, "width": width}


def decode_image() -> Transform:
    """Decodes a picture (JPEG, PNG, GIF, WebP, TIFF, BMP, ICO), upright, as RGB. It must be the first transform."""
    return Transform("decode_image")


def decode_video(frames: int, every: float | None = None, random: bool = False) -> Transform:
    """Decodes frames of a video, upright, as RGB. It must be the first transform.

    Decoding starts at the keyframe before the first frame, and ends at the last. All frames of a clip are cropped,
    resized and mirrored alike. Tensors are rows × frames × height × width × 3, and with `normalize` rows × frames × 3 ×
    height × width.

    Args:
        frames: The number of frames. A video that is too short for them repeats its last frame.
        every: The seconds between frames (default: frames are spread over the whole video).
        random: Whether the clip begins at a random time, instead of being the middle of the video.
    """
    every_ms = None if every is None else round(every * 1000)
    return Transform("decode_video", frames=frames, every_ms=every_ms, random=random)


def resize(size: Size) -> Transform:
    """Resizes to (height, width), or, given one number, so that the shorter side has that many pixels."""
    sides = {"height": size, "width": None} if isinstance(size, int) else _sides(size)
    return Transform("resize", **sides)


def center_crop(size: Size) -> Transform:
    """Crops to the middle of the picture. A smaller picture is enlarged to cover the size."""
    return Transform("center_crop", **_sides(size))


def random_resized_crop(
    size: Size, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Transform:
    """Crops to a random part, and resizes it.

    Args:
        size: The size of the result.
        scale: The smallest and the largest area of the part, as a share of the picture.
        ratio: The smallest and the largest ratio of width to height.
    """
    return Transform("random_resized_crop", **_sides(size), scale=list(scale), ratio=list(ratio))


def random_horizontal_flip(probability: float = 0.5) -> Transform:
    """Mirrors the picture left to right, with a probability."""
    return Transform("random_horizontal_flip", probability=probability)


def normalize(mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225)) -> Transform:
    """Scales to numbers from 0 to 1, subtracts the mean, and divides by the standard deviation (default: ImageNet's).

    It must be the last transform. Tensors are `float32` of 3 × height × width, and without it `uint8` of height × width
    × 3.
    """
    return Transform("normalize", mean=list(mean), std=list(std))


def pack(length: int, pad: int = 0) -> Transform:
    """Packs the sequences of a batch one after the other into blocks, as `int64` of blocks × `length`.

    Sequences are lists of whole numbers, such as tokens. A column `tokens` gets a companion `tokens_row`, which holds
    the row of the batch that each number belongs to, and -1 where `pad` fills up the last block; masks and positions
    can be computed from it. Rows stay whole within a batch, so that a loader resumes exactly.

    Args:
        length: The numbers of a block.
        pad: The number that fills up the last block.

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
