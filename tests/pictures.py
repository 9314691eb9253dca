"""Benign pictures for the tests: scikit-image's own, and others made from them.

Caffe scored files made in these very ways, so its numbers hold for these.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

_FOLDERS = (("skimage", "data"), ("matplotlib", "mpl-data/sample_data"))


@cache
def path(name: str) -> Path:
    """A sample picture of scikit-image or matplotlib, found without importing them."""
    for package, folder in _FOLDERS:
        spec = find_spec(package)
        assert spec is not None, f"pip install {package}"
        assert spec.origin is not None
        found = Path(spec.origin).parent / folder / name
        if found.exists():
            return found
    raise FileNotFoundError(name)


@cache
def sample(name: str) -> Image.Image:
    with Image.open(path(name)) as image:
        image.load()
    return image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def _astronaut(width: int, height: int, how: Image.Resampling) -> Image.Image:
    # One axis a call, the one that shrinks first: no Pillow orders that otherwise.
    image = sample("astronaut.png")
    wide = width > image.width
    image = image.resize((image.width, height) if wide else (width, image.height), how)
    return image.resize((width, height), how)


def _checker(side: int, colours: list[list[int]]) -> Image.Image:
    y, x = np.mgrid[:512, :512]
    odd = ((x // side + y // side) % 2)[..., np.newaxis]
    return Image.fromarray(np.where(odd, *np.uint8(colours)))


def _gradient() -> Image.Image:
    y, x = np.mgrid[:480, :640]
    channels = [x * 255 / 639, y * 255 / 479, np.full(x.shape, 128.0)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def _uniform(*rgb: int) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (320, 240), rgb)


def _camera(scale: float, dtype: type, format: str) -> bytes:
    gray = np.asarray(sample("camera.png"), dtype=np.float64) * scale
    return encoded(Image.fromarray(gray.astype(dtype)), format)


_BICUBIC, _BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
_COFFEE = "coffee.png"

MADE: dict[str, Callable[[], Image.Image | bytes]] = {
    "black": _uniform(0, 0, 0),
    "white": _uniform(255, 255, 255),
    "red": _uniform(255, 0, 0),
    "green": _uniform(0, 255, 0),
    "blue": _uniform(0, 0, 255),
    "gray128": _uniform(128, 128, 128),
    "mean": _uniform(123, 117, 104),
    "skin": _uniform(224, 172, 135),
    "gradient": _gradient,
    "checker1": lambda: _checker(1, [[255] * 3, [0] * 3]),
    "checker8": lambda: _checker(8, [[255, 0, 255], [0, 255, 0]]),
    "flip": lambda: sample("astronaut.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rot90": lambda: sample("astronaut.png").transpose(Image.Transpose.ROTATE_90),
    "rot180": lambda: sample("astronaut.png").transpose(Image.Transpose.ROTATE_180),
    "1bit": lambda: sample("camera.png").convert("1"),
    "tall_20x2000": lambda: _astronaut(20, 2000, _BICUBIC),
    "wide_2000x20": lambda: _astronaut(2000, 20, _BICUBIC),
    "tiny_10x10": lambda: _astronaut(10, 10, _BILINEAR),
    "224x224": lambda: _astronaut(224, 224, _BILINEAR),
    "256x256": lambda: _astronaut(256, 256, _BILINEAR),
    "255x257": lambda: _astronaut(255, 257, _BILINEAR),
    "257x255": lambda: _astronaut(257, 255, _BILINEAR),
    "gray_L_jpg": lambda: encoded(
        sample("astronaut.png").convert("L"), "JPEG", quality=90
    ),
    "comment": lambda: encoded(sample(_COFFEE), "JPEG", quality=90, comment=b"words"),
    "odd_301x201": lambda: encoded(
        sample(_COFFEE).crop((0, 0, 301, 201)), "JPEG", quality=95
    ),
    "face_crop": lambda: encoded(
        sample("astronaut.png").crop((100, 0, 400, 300)), "JPEG", quality=90
    ),
    "blur": lambda: encoded(
        sample("astronaut.png").filter(ImageFilter.GaussianBlur(12)), "JPEG", quality=90
    ),
    "gray16": lambda: _camera(257, np.uint16, "PNG"),
    "gray16_lowrange": lambda: _camera(1, np.uint16, "PNG"),
    "float32": lambda: _camera(1 / 255, np.float32, "TIFF"),
    "int32": lambda: _camera(1, np.int32, "TIFF"),
    # The same pixels in other containers: all have the score of coffee.png.
    "coffee_bmp": lambda: encoded(sample(_COFFEE), "BMP"),
    "coffee_ppm": lambda: encoded(sample(_COFFEE), "PPM"),
    "coffee_tiff": lambda: encoded(sample(_COFFEE), "TIFF"),
    "coffee_lzw": lambda: encoded(sample(_COFFEE), "TIFF", compression="tiff_lzw"),
    "coffee_webp": lambda: encoded(sample(_COFFEE), "WEBP", lossless=True),
    "coffee_jp2": lambda: encoded(sample(_COFFEE), "JPEG2000"),
    "coffee_png": lambda: encoded(sample(_COFFEE), "PNG"),
}
