"""Covering the parts of a picture that raise its score, until it is low enough.

The score of the result is that of the file as it is written, and not an estimate.
"""

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, JpegImagePlugin
from PIL.ExifTags import IFD, Base

from open_nsfw_tf.classifier import Classifier, Explanation, default_classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import (
    Picture,
    decoding,
    describe,
    identify,
    naming,
    read_file,
)

HOW = ("blur", "pixelate", "box")
BELOW = 0.2
BLOCKS = 16  # a side of the whole picture, pixelated: 2 for each of the 7 cells
GRAY = 128
QUALITY = 90  # of lossy formats that do not say which quality they were saved in
# Of EXIF's first directory, what is kept. Other tags can hold the picture as it was:
# XMP, Photoshop's blocks and layers.
KEPT_TAGS = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Orientation,
    Base.XResolution,
    Base.YResolution,
    Base.ResolutionUnit,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Copyright,
)
# Of the directories of the photograph and of the position, what is dropped: these, and
# binary values of more bytes than the standard's usual ones.
DROPPED_TAGS = (Base.MakerNote, Base.UserComment)
LONGEST_BINARY = 64
# The colour space of a profile for an image of this mode.
PROFILE_SPACES = {
    "L": b"GRAY",
    "LA": b"GRAY",
    "RGB": b"RGB ",
    "RGBA": b"RGB ",
    "CMYK": b"CMYK",
}

Cells = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Covered:
    """A picture that is partly covered.

    Attributes:
        data: the file, in the format of the original.
        before: the explanation of the original's score.
        after: the explanation of this file's score.
        cells: how many of the network's places are covered.
        below: whether the score is below the one that was asked for.
    """

    data: bytes
    before: Explanation
    after: Explanation
    cells: int
    below: bool


def blur(
    picture: Picture,
    classifier: Classifier | None = None,
    *,
    below: float = BELOW,
    how: str = "blur",
    whole: bool = False,
    of: str | None = None,
    keep_metadata: bool = False,
) -> Covered:
    """Cover the cells that raise the score most, until the score is low enough.

    After each step the file is made and scored again. If even a picture that is covered
    everywhere is not below the score, that is the result, and it says so. Orientation
    and colour profile are kept, other metadata is not.

    Args:
        picture: a path, bytes or a binary file; a still picture. Of a camera's JPEG
            with more pictures behind it, an MPO, the first is left, as JPEG.
        classifier: that scores it; None: the default one.
        below: the score to come below, above 0 to 1.
        how: of `HOW`: blurred, in large blocks, or plain gray.
        whole: whether to cover the whole picture at once.
        of: the class whose score is lowered; None: as for `Classifier.explain`.
        keep_metadata: whether to keep EXIF too: camera, author, times, position. Its
            thumbnail, the maker's notes and private tags go, as do XMP and comments:
            they can hold the picture as it was.

    Raises:
        ImageError: the picture cannot be read, has several frames, or is of a format
            that cannot be written here.
        ValueError: an argument is out of range, or as `Classifier.explain`.
    """
    if not 0 < below <= 1:
        raise ValueError(f"expected a score above 0, at most 1, got {below!r:.80}")
    if how not in HOW:
        raise ValueError(f"expected one of {', '.join(HOW)}, got {how!r:.80}")
    classifier = classifier or default_classifier()
    original = read_file(picture)
    try:
        before = classifier.explain(original, of)
    except ImageError as error:
        raise type(error)(_named(picture, original, str(error))) from error
    with naming(picture):
        file = _File(original, classifier.max_pixels, keep_metadata)
    hidden = file.hidden(how)
    every = frozenset(np.ndindex(before.cells.shape))
    cells: Cells = every if whole else frozenset()
    while True:
        with naming(picture):
            data = file.encoded(_paste(file.image, hidden, before, cells))
        after = classifier.explain(data, before.of)
        low = after.score < below
        if low or cells == every:
            return Covered(data, before, after, len(cells), low)
        cells |= _next(after, cells, below)


def _named(picture: Picture, data: bytes, message: str) -> str:
    return message.replace(describe(data), describe(picture), 1)


def _next(found: Explanation, cells: Cells, below: float) -> Cells:
    """The cells to cover next: those that add what is too much, but at least one."""
    log_odds = found.bias + float(found.cells.sum(dtype=np.float64))
    too_much = log_odds - math.log(below / (1 - below)) if below < 1 else 0.0
    others = sorted(
        (-float(value), place)
        for place, value in np.ndenumerate(found.cells)
        if place not in cells
    )
    chosen: set[tuple[int, int]] = set()
    for negative, place in others:
        if chosen and (too_much <= 0 or negative >= 0):
            break
        chosen.add((place[0], place[1]))
        too_much += negative
    return frozenset(chosen)


def _paste(
    image: Image.Image, hidden: Image.Image, found: Explanation, cells: Cells
) -> Image.Image:
    """The image, with `hidden` in the areas of some cells.

    The network does not see the picture's border: it goes with the cells next to it.
    """
    result = image.copy()
    rows, columns = found.cells.shape
    for row, column in cells:
        left, top, right, bottom = found.area(row, column)
        left, top = (0 if i == 0 else edge for i, edge in ((column, left), (row, top)))
        right = 1 if column == columns - 1 else right
        bottom = 1 if row == rows - 1 else bottom
        box = (
            math.floor(left * image.width),
            math.floor(top * image.height),
            math.ceil(right * image.width),
            math.ceil(bottom * image.height),
        )
        result.paste(hidden.crop(box), box)
    return result


class _File:
    """A still picture, and how a file like it is written.

    Args:
        data: the picture file.
        max_pixels: as for `open_nsfw_tf.image.load_rgb`.
        keep_metadata: as for `blur`.
    """

    def __init__(self, data: bytes, max_pixels: int, keep_metadata: bool) -> None:
        with decoding(), identify(BytesIO(data), max_pixels) as image:
            # The pictures behind the first of an MPO are no frames, and are left out.
            several = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            self.format: str = "JPEG" if image.format == "MPO" else image.format
            if several:
                raise ImageError(
                    f"expected a still picture, got {image.n_frames} frames: covering "
                    "the first would show the others"
                )
            if self.format not in Image.SAVE:
                raise ImageError(
                    f"cannot write {self.format} here: convert it, to JPEG or PNG"
                )
            image.load()
            self.image: Image.Image = _plain(image)
            self.options = _options(image, data, keep_metadata)
        profile = image.info.get("icc_profile") or b""
        if profile[16:20] == PROFILE_SPACES[self.image.mode]:
            self.options["icc_profile"] = profile

    def hidden(self, how: str) -> Image.Image:
        """The whole picture as it looks where it is covered.

        Its alpha too, as that alone can show what the picture is.
        """
        bands = [_hidden(band, how) for band in self.image.split()]
        if how == "box" and self.image.mode in ("RGBA", "LA"):
            bands[-1] = Image.new("L", self.image.size, 255)
        return Image.merge(self.image.mode, bands)

    def encoded(self, image: Image.Image) -> bytes:
        """A picture file of the original's format.

        Raises:
            ImageError: Pillow cannot write it.
        """
        file = BytesIO()
        try:
            image.save(file, self.format, **self.options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ImageError(f"cannot write {self.format}: {error}") from error
        return file.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """The image in a mode whose values can be averaged and that its format can hold."""
    # Of these formats Pillow returns 16 bits as "I" too, some versions always.
    of_16_bits = image.mode == "I" and image.format in ("PNG", "PPM")
    of_16_bits = of_16_bits or image.mode.startswith("I;16")
    if image.mode in ("I", "F") and not of_16_bits:
        raise ImageError(
            "expected a picture of 8 or 16 bits, got one of 32: what is black and what "
            "is white in it is not known"
        )
    transparent = image.mode == "PA" or "transparency" in image.info
    if of_16_bits:
        # Not cut off at 255, as for the network: all would be white.
        result = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("L", "1"):
        result = image.convert("LA" if transparent else "L")
    elif image.mode in ("LA", "RGBA", "CMYK"):
        result = image.copy()
    else:
        result = image.convert("RGBA" if transparent else "RGB")
    result.info.clear()  # Pillow would write comments that are there
    return result


def _hidden(band: Image.Image, how: str) -> Image.Image:
    if how == "box":
        return Image.new("L", band.size, GRAY)
    if how == "pixelate":
        sides = (min(BLOCKS, band.width), min(BLOCKS, band.height))
        blocks = band.resize(sides, Image.Resampling.BOX)
        return blocks.resize(band.size, Image.Resampling.NEAREST)
    # Half a cell: a cell is an eighth of the picture.
    radii = (band.width / 16, band.height / 16)
    return band.filter(ImageFilter.GaussianBlur(radii))


def _options(image: Any, data: bytes, keep_metadata: bool) -> dict[str, Any]:
    """How Pillow saves a file like this one."""
    options: dict[str, Any] = {}
    if exif := _exif(image.getexif(), keep_metadata):
        options["exif"] = exif
    match image.format:
        case "JPEG" | "MPO":
            options["qtables"] = image.quantization
            options["subsampling"] = JpegImagePlugin.get_sampling(image)
            if options["subsampling"] == -1:
                del options["subsampling"]
        case "WEBP":
            options |= {"lossless": b"VP8L" in data, "quality": QUALITY}
        case "AVIF" | "HEIF":
            options["quality"] = QUALITY
        case "ICO":
            options["sizes"] = [image.size]
        case "TIFF" if not keep_metadata:  # libtiff cannot write EXIF's directories
            options["compression"] = "tiff_deflate"
    return options


def _exif(exif: Image.Exif, keep: bool) -> bytes:
    """The EXIF to write: the orientation, or all but what can hold the picture.

    Of a TIFF, Pillow has applied the orientation and removed its tag.
    """
    kept = Image.Exif()
    if keep:
        kept.update({tag: exif[tag] for tag in KEPT_TAGS if tag in exif})
        for directory in (IFD.Exif, IFD.GPSInfo):
            if values := _harmless(exif.get_ifd(directory)):
                kept.get_ifd(directory).update(values)
    elif exif.get(Base.Orientation) in range(2, 9):
        kept[Base.Orientation] = exif[Base.Orientation]
    try:
        return kept.tobytes() if kept or keep else b""
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise ImageError(
            f"its EXIF cannot be written again ({error}): do not keep its metadata"
        ) from error


def _harmless(directory: dict[int, Any]) -> dict[int, Any]:
    """What of a directory is too small to hold a picture."""
    return {
        tag: value
        for tag, value in directory.items()
        if tag not in DROPPED_TAGS
        and not (isinstance(value, bytes) and len(value) > LONGEST_BINARY)
        and not isinstance(value, dict)
    }
