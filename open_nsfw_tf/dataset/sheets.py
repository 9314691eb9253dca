"""Contact sheets: many small pictures on one page, blurred on request."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from open_nsfw_tf.dataset.sort import Sorted
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.image import MAX_PIXELS, load_rgb

TILE = 160  # pixels, both sides
CAPTION = 28  # pixels below a tile: two lines
COLUMNS, ROWS = 8, 6
BLUR = 12  # pixels, radius for a tile: what it shows is gone, what kind it is remains
PAPER, INK, MISSING = (255, 255, 255), (0, 0, 0), (160, 160, 160)
QUALITY = 85  # of the JPEG
PER_SHEET = COLUMNS * ROWS


def write_sheet(
    path: Path,
    pictures: Sequence[str],
    captions: Sequence[str],
    blur: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write one sheet as JPEG.

    Args:
        path: of the sheet, which is replaced.
        pictures: paths, at most `PER_SHEET`; one that cannot be read is a gray tile.
        captions: for each.
        blur: make the pictures unrecognisable.
        max_pixels: larger pictures are gray tiles.

    Raises:
        ValueError: there are too many pictures for a sheet, or none.
        OSError: the sheet cannot be written.
    """
    if not 0 < len(pictures) <= PER_SHEET:
        raise ValueError(f"expected 1 to {PER_SHEET} pictures, got {len(pictures)}")
    rows = -(-len(pictures) // COLUMNS)
    columns = min(len(pictures), COLUMNS)
    page = Image.new("RGB", (columns * TILE, rows * (TILE + CAPTION)), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default()
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = index % COLUMNS * TILE, index // COLUMNS * (TILE + CAPTION)
        tile = _tile(picture, blur, max_pixels)
        page.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        first, second = caption[:24], caption[24:48]  # what a tile's width holds
        for line, text in enumerate((first, second)):
            # The built-in font has few letters.
            plain = text.encode("ascii", "replace").decode()
            draw.text((x + 4, y + TILE + 13 * line), plain, INK, font)
    with replacing(path) as beside:
        page.save(beside, "JPEG", quality=QUALITY)


def _tile(picture: str, blur: bool, max_pixels: int) -> Image.Image:
    try:
        image = load_rgb(picture, max_pixels)
    except ImageError:
        return Image.new("RGB", (TILE - 4, TILE - 4), MISSING)
    image.thumbnail((TILE - 4, TILE - 4))
    return image.filter(ImageFilter.GaussianBlur(BLUR)) if blur else image


def write_sheets(
    places: Sequence[Sorted],
    where: Mapping[str, str],
    folder: Path,
    pages: int = 1,
    blur: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Path]:
    """Write the sheets of sorted pictures, highest scores first.

    Args:
        places: of `open_nsfw_tf.dataset.sort.sort`.
        where: by the path that a picture had, the one that it has now; pictures that
            are not in it are left out.
        folder: for the sheets: ``tp-1.jpg``, ``tp-2.jpg``; it is made if need be.
        pages: at most, for each folder of pictures.
        blur: make the pictures unrecognisable.
        max_pixels: larger pictures are gray tiles.

    Yields:
        The path of every sheet, when it is written.

    Raises:
        OSError: a sheet cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [place for place in places if place.file.path in where]
    for name, group in groupby(there, key=lambda place: place.folder):
        some = list(group)[: pages * PER_SHEET]
        for page, start in enumerate(range(0, len(some), PER_SHEET), 1):
            part = some[start : start + PER_SHEET]
            path = folder / f"{name}-{page}.jpg"
            write_sheet(
                path,
                [where[place.file.path] for place in part],
                [f"{place.score:.4f} {sanitize(place.file.name)}" for place in part],
                blur,
                max_pixels,
            )
            yield path
