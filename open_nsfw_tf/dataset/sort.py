"""Pictures by how right the classifier was, in folders and on contact sheets.

The folders are tp, tn, fp and fn, or one for each class and prediction.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from open_nsfw_tf.dataset.folder import File, ProposedMoves, Scan, propose, scan
from open_nsfw_tf.dataset.scored import ScoredFolder, as_folder, join_scores
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import fitting, replacing
from open_nsfw_tf.image import MAX_PIXELS, load_rgb
from open_nsfw_tf.tables import Table


def _outcome(label: str, predicted: str, positive: str) -> str:
    right = "t" if label == predicted else "f"
    return right + ("p" if predicted == positive else "n")


def _pair(label: str, predicted: str, positive: str) -> str:
    return as_folder(f"{label}_{predicted}")


BY: dict[str, Callable[[str, str, str], str]] = {"outcome": _outcome, "class": _pair}


@dataclass(frozen=True, slots=True)
class SortOptions:
    """How pictures are sorted.

    Attributes:
        by: "outcome": tp, tn, fp, fn; "class": ``label_predicted``.
        positive: the class that is looked for.
        threshold: from which score of the positive class on a picture is called so, 0
            to 1; with more than two classes, and `by` "class", the largest score
            decides.
        action: a key of `open_nsfw_tf.moves.ACTIONS`.
    """

    by: str = "outcome"
    positive: str = "nsfw"
    threshold: float = 0.5
    action: str = "link"


@dataclass(frozen=True, slots=True)
class SheetOptions:
    """How contact sheets are drawn.

    Attributes:
        pages: at most, for each folder of pictures, of `PER_SHEET` pictures.
        blur: make the pictures unrecognisable.
        max_pixels: larger pictures are gray tiles.
    """

    pages: int = 1
    blur: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class SortedPicture:
    """A picture and where it belongs.

    Attributes:
        file: of the picture.
        folder: it belongs in.
        name: it gets there: score, label, prediction, and its own.
        score: of the positive class, 0 to 1; by class of more than two, of the
            predicted one.
    """

    file: File
    folder: str
    name: str
    score: float


@dataclass(slots=True)
class SortResult:
    """Where the pictures belong.

    Attributes:
        scored: the pictures, their labels and scores, and what was left out.
        pictures: all of them, within each folder the highest score first.
        moves: into the folders.
        sheets: paths of the contact sheets that were written.
    """

    scored: ScoredFolder
    pictures: list[SortedPicture]
    moves: ProposedMoves
    sheets: list[Path] = field(default_factory=list)

    def draw(self, options: SheetOptions) -> Iterator[Path]:
        """Draw contact sheets of what was moved, into target/sheets.

        Yields:
            The path of every sheet, when it is written and undoing knows of it.

        Raises:
            OSError: a sheet cannot be written.
        """
        journal = self.moves.journal
        if journal is None:
            return
        where = {step.source: step.target for step in journal.finished}
        folder = Path(self.moves.target) / "sheets"
        for path in write_sheets(self.pictures, where, folder, options):
            journal.wrote(path)
            self.sheets.append(path)
            yield path


def sort(
    folder: str | os.PathLike[str] | Scan,
    scores: str | os.PathLike[str] | Table,
    target: str | os.PathLike[str] = "sorted",
    options: SortOptions = SortOptions(),
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    sheets: SheetOptions | None = None,
    apply: bool = False,
) -> SortResult:
    """Sort pictures by how right the classifier was.

    Args:
        folder: of classes, or a scan of it.
        scores: as for `join_scores`.
        target: where the folders go.
        options: how they are sorted.
        names: as for `join_scores`.
        strict: refuse whatever does not fit.
        sheets: contact sheets to draw into target/sheets; None: none.
        apply: make the links or moves, rather than only propose them, and draw.

    Raises:
        OSError: the folder or the table cannot be read, or the disk refuses.
        ValueError: no such class or way, a threshold out of range, outcomes of more
            than two classes; or as `open_nsfw_tf.dataset.scan` and `join_scores`.
    """
    scored = join_scores(scan(folder, target), scores, names, strict)
    pictures = arrange(scored, options)
    pairs = moves_of(pictures)
    moves = propose(pairs, scored.files, target, options.action, "sort")
    result = SortResult(scored, pictures, moves)
    if apply:
        moves.apply()
        for _ in result.draw(sheets) if sheets else ():
            pass
    return result


def arrange(
    scored: ScoredFolder, options: SortOptions = SortOptions()
) -> list[SortedPicture]:
    """Say for every picture where it belongs.

    Args:
        scored: pictures with labels and probabilities.
        options: how they are sorted.

    Returns:
        All pictures, within each folder the highest score first.

    Raises:
        ValueError: no such class or way, a threshold out of range, or outcomes of more
            than two classes.
    """
    by, positive = options.by, options.positive
    if by not in BY:
        raise ValueError(f"expected one of {', '.join(BY)}, got {by!r:.80}")
    if len(scored.classes) > 2 and by == "class":
        predicted = columns = scored.scores.argmax(axis=1)
    else:
        column = _column(scored.classes, positive)
        predicted = _predicted(scored, column, options.threshold)
        columns = np.full(len(predicted), column)
    made = []
    for index, file in enumerate(scored.files):
        label = scored.classes[scored.labels[index]]
        other = scored.classes[predicted[index]]
        score = float(scored.scores[index, columns[index]])
        own, suffix = os.path.splitext(os.path.basename(file.name))
        name = fitting(as_folder(f"{score:.4f}_{label}_as_{other}_{own}"), suffix)
        folder = BY[by](label, other, positive)
        made.append(SortedPicture(file, folder, name, score))
    return sorted(made, key=lambda one: (one.folder, -one.score, one.file.name))


def _column(classes: Sequence[str], name: str) -> int:
    if name not in classes:
        known = ", ".join(map(sanitize, classes))
        raise ValueError(f"no class {sanitize(name)!r}: the table has {known}")
    return classes.index(name)


def _predicted(scored: ScoredFolder, column: int, threshold: float) -> np.ndarray:
    """The class of every picture, int64 (N,): that of the column from a score on."""
    if len(scored.classes) != 2:
        raise ValueError(
            f"a threshold needs two classes, the table has {len(scored.classes)}: "
            f"{', '.join(map(sanitize, scored.classes))}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold of 0 to 1, got {threshold}")
    return np.where(scored.scores[:, column] >= threshold, column, 1 - column)


def moves_of(pictures: list[SortedPicture]) -> list[tuple[str, str]]:
    """Where below a target the pictures would go: ``folder/name``."""
    return [(one.file.path, os.path.join(one.folder, one.name)) for one in pictures]


# -- contact sheets: many small pictures on one page

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
    options: SheetOptions = SheetOptions(),
) -> None:
    """Write one sheet as JPEG.

    Args:
        path: of the sheet, which is replaced.
        pictures: paths, at most `PER_SHEET`; one that cannot be read is a gray tile.
        captions: for each.
        options: how the pictures are drawn.

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
        tile = _tile(picture, options)
        page.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        first, second = caption[:24], caption[24:48]  # what a tile's width holds
        for line, text in enumerate((first, second)):
            # The built-in font has few letters.
            letters = text.encode("ascii", "replace").decode()
            draw.text((x + 4, y + TILE + 13 * line), letters, INK, font)
    with replacing(path) as beside:
        page.save(beside, "JPEG", quality=QUALITY)


def _tile(picture: str, options: SheetOptions) -> Image.Image:
    try:
        image = load_rgb(picture, options.max_pixels)
    except ImageError:
        return Image.new("RGB", (TILE - 4, TILE - 4), MISSING)
    image.thumbnail((TILE - 4, TILE - 4))
    return image.filter(ImageFilter.GaussianBlur(BLUR)) if options.blur else image


def write_sheets(
    pictures: Sequence[SortedPicture],
    where: Mapping[str, str],
    folder: Path,
    options: SheetOptions = SheetOptions(),
) -> Iterator[Path]:
    """Write the sheets of sorted pictures, highest scores first.

    Args:
        pictures: of `arrange`.
        where: by the path that a picture had, the one that it has now; pictures that
            are not in it are left out.
        folder: for the sheets: ``tp-1.jpg``, ``tp-2.jpg``; it is made if need be.
        options: how they are drawn.

    Yields:
        The path of every sheet, when it is written.

    Raises:
        OSError: a sheet cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [one for one in pictures if one.file.path in where]
    for name, group in groupby(there, key=lambda one: one.folder):
        some = list(group)[: options.pages * PER_SHEET]
        for page, start in enumerate(range(0, len(some), PER_SHEET), 1):
            part = some[start : start + PER_SHEET]
            path = folder / f"{name}-{page}.jpg"
            write_sheet(
                path,
                [where[one.file.path] for one in part],
                [f"{one.score:.4f} {sanitize(one.file.name)}" for one in part],
                options,
            )
            yield path
