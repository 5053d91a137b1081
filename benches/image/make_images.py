"""Makes the pictures of the image benchmark: `make_images.py DIRECTORY COUNT BYTES [PHOTOGRAPHS]`.

They are JPEGs of 640×480 and about BYTES bytes: crops and mirror images of PHOTOGRAPHS, or else noise with the spectrum
of a photograph. Picture i depends only on i and on the photographs, so the same call makes the same files. Runs in the
virtual environment of the peers, for Pillow and NumPy.
"""

import io
import random
import sys
from pathlib import Path

import numpy
from PIL import Image, ImageOps

WIDTH, HEIGHT = 640, 480
# A crop keeps at least this share of the largest crop, so that pictures differ and still look like photographs.
CROP_MIN = 0.6


def from_photograph(path: Path, random_state: random.Random) -> Image.Image:
    with Image.open(path) as file:
        photograph = ImageOps.exif_transpose(file).convert("RGB")
    scale = min(photograph.width / WIDTH, photograph.height / HEIGHT) * random_state.uniform(CROP_MIN, 1)
    width, height = WIDTH * scale, HEIGHT * scale
    left = random_state.uniform(0, photograph.width - width)
    top = random_state.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    picture = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    return ImageOps.mirror(picture) if random_state.random() < 0.5 else picture


def from_noise(seed: int) -> Image.Image:
    """Returns noise whose amplitude falls with frequency, as in photographs; the colours follow the brightness."""
    state = numpy.random.default_rng(seed)
    frequency = numpy.hypot(numpy.fft.fftfreq(HEIGHT)[:, None], numpy.fft.rfftfreq(WIDTH)[None, :])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        phase = numpy.exp(2j * numpy.pi * state.random(frequency.shape))
        plane = numpy.fft.irfft2(phase / frequency, s=(HEIGHT, WIDTH))
        planes.append(plane / plane.std())
    brightness, red, blue = planes
    channels = [brightness + 0.3 * red, brightness - 0.15 * (red + blue), brightness + 0.3 * blue]
    pixels = numpy.clip(128 + 45 * numpy.stack(channels, axis=-1), 0, 255)
    return Image.fromarray(pixels.astype(numpy.uint8), "RGB")


def encode(picture: Image.Image, wanted: int) -> bytes:
    """Returns the JPEG whose size is nearest to `wanted` bytes, by bisection over the quality."""
    low, high, best = 30, 97, b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if not best or abs(len(data) - wanted) < abs(len(best) - wanted):
            best = data
        if abs(len(data) - wanted) < wanted // 20:
            break
        if len(data) < wanted:
            low = quality + 1
        else:
            high = quality - 1
    return best


def main() -> None:
    directory, count, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    photographs = sorted(Path(sys.argv[4]).rglob("*.jpg")) if len(sys.argv) > 4 else []
    for i in range(count):
        path = directory / f"{i:05}.jpg"
        picture = from_photograph(photographs[i % len(photographs)], random.Random(i)) if photographs else from_noise(i)
        path.write_bytes(encode(picture, wanted))


main()
