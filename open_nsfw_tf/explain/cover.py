"""Covering the parts of a picture that raise its score, until it is low enough.

The score of the result is that of the file as it is written, and not an estimate.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, JpegImagePlugin

from open_nsfw_tf.classifier import Classifier, Explanation, default_classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import Picture, decoding, describe, identify, read_file

HOW = ("blur", "pixelate", "box")
BELOW = 0.2
BLOCKS = 16  # a side of the whole picture, pixelated: 2 for each of the 7 cells
GRAY = 128
QUALITY = 90  # of lossy formats that do not say which quality they were saved in
ORIENTATION, EXIF_IFD, MAKER_NOTE = 0x0112, 0x8769, 0x927C  # tags of EXIF

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
        picture: a path, bytes or a binary file; a still picture.
        classifier: that scores it; None: the default one.
        below: the score to come below, above 0 to 1.
        how: of `HOW`: blurred, in large blocks, or plain gray.
        whole: whether to cover the whole picture at once.
        of: the class whose score is lowered; None: as for `Classifier.explain`.
        keep_metadata: whether to keep EXIF too. Its thumbnail and the maker's notes go,
            as do XMP and comments: they can hold the picture as it was.

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
    file = _File(original, classifier.max_pixels, describe(picture), keep_metadata)
    hidden = file.hidden(how)
    every = frozenset(np.ndindex(before.cells.shape))
    cells: Cells = every if whole else frozenset()
    while True:
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
        name: of the picture, for errors.
        keep_metadata: as for `blur`.
    """

    def __init__(
        self, data: bytes, max_pixels: int, name: str, keep_metadata: bool
    ) -> None:
        with decoding(), identify(BytesIO(data), max_pixels) as image:
            self.format: str = image.format
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ImageError(
                    f"{name}: expected a still picture, got {frames} frames: covering "
                    "the first would show the others"
                )
            if self.format not in Image.SAVE:
                raise ImageError(f"{name}: cannot write {self.format} here")
            image.load()
            self.image: Image.Image = _plain(image)
            self.options = _options(image, data, keep_metadata)
        self.name = name

    def hidden(self, how: str) -> Image.Image:
        """The whole picture as it looks where it is covered; its alpha stays."""
        bands = self.image.split()
        alpha = bands[-1:] if self.image.mode in ("RGBA", "LA") else ()
        colours = bands[: len(bands) - len(alpha)]
        return Image.merge(
            self.image.mode, [*(_hidden(band, how) for band in colours), *alpha]
        )

    def encoded(self, image: Image.Image) -> bytes:
        """A picture file of the original's format.

        Raises:
            ImageError: Pillow cannot write it.
        """
        file = BytesIO()
        try:
            image.save(file, self.format, **self.options)
        except (OSError, ValueError) as error:
            raise ImageError(
                f"{self.name}: cannot write {self.format}: {error}"
            ) from error
        return file.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """The image in a mode whose values can be averaged and that its format can hold."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image.copy()
    transparent = image.mode in ("PA", "P") and "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


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
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    exif = image.getexif()  # of a TIFF, Pillow has applied the orientation already
    if exif:
        options["exif"] = _exif(exif, keep_metadata)
    match image.format:
        case "JPEG":
            options["qtables"] = image.quantization
            options["subsampling"] = JpegImagePlugin.get_sampling(image)
            if options["subsampling"] == -1:
                del options["subsampling"]
        case "WEBP":
            options |= {"lossless": b"VP8L" in data[:64], "quality": QUALITY}
        case "AVIF" | "HEIF":
            options["quality"] = QUALITY
        case "TIFF" if not keep_metadata:  # libtiff cannot write EXIF's directories
            options["compression"] = "tiff_deflate"
    return options


def _exif(exif: Image.Exif, keep: bool) -> bytes:
    """The EXIF to write: the orientation, or all but what can hold the picture.

    Pillow does not write the second directory, which has the thumbnail.
    """
    if keep:
        exif.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None)
        return exif.tobytes()
    kept = Image.Exif()
    if ORIENTATION in exif:
        kept[ORIENTATION] = exif[ORIENTATION]
    return kept.tobytes()
