"""Looking at every file: what the loader refuses, and what is odd about the rest."""

import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from open_nsfw_tf.dataset.folder import File, Found
from open_nsfw_tf.dataset.plainness import plainness
from open_nsfw_tf.dataset.workers import in_order
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import (
    HEAD,
    PICTURE_TYPES,
    by_content,
    by_suffix,
    read_head,
    type_by_content,
)
from open_nsfw_tf.image import MAX_PIXELS, decoding, identify, load_rgb

# Worst first: a file with several is put with the first one.
KINDS = {
    "unreadable": "the loader refuses it",
    "truncated": "the loader refuses it, because its end is missing",
    "tiny": "a side is shorter than --min-side",
    "blank": "there is next to nothing to see in it",
    "animated": "it has several frames, of which only the first is scored",
    "suffix": "its name says another format",
}
MIN_SIDE = 32  # pixels
_CUT = ("truncat", "end of file", "unexpected end", "not enough image data")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file.

    Attributes:
        file: of the folder.
        kinds: keys of `KINDS`, worst first.
        detail: for people, in one line.
    """

    file: File
    kinds: tuple[str, ...]
    detail: str


@dataclass(slots=True)
class Checked:
    """What was found.

    Attributes:
        problems: in the order of the files.
        good: how many files have none.
        other: files that are pictures neither by their names nor by their first bytes;
            they are left alone.
    """

    problems: list[Problem] = field(default_factory=list)
    good: int = 0
    other: list[File] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Files of each kind; one with two problems counts twice."""
        counted = Counter(kind for found in self.problems for kind in found.kinds)
        return {kind: counted[kind] for kind in KINDS}


def check(
    found: Found,
    min_side: int = MIN_SIDE,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen_one: Callable[[], None] = lambda: None,
) -> Checked:
    """Look at every file of a folder.

    Unreadable or truncated is exactly what `open_nsfw_tf.image.load_rgb` refuses.

    Args:
        found: the folder's files.
        min_side: pixels; a picture with a shorter side is tiny.
        max_pixels: larger pictures are unreadable.
        threads: None: as many as there are processors.
        seen_one: called after every file, for a progress bar.

    Raises:
        ValueError: `min_side` is negative.
    """
    if min_side < 0:
        raise ValueError(f"expected a min_side of at least 0, got {min_side}")
    checked = Checked()
    work = partial(_look_at, min_side=min_side, max_pixels=max_pixels)
    for file, problem in zip(
        found.files, in_order(work, found.files, threads), strict=True
    ):
        if problem is None:
            checked.good += 1
        elif problem.kinds:
            checked.problems.append(problem)
        else:
            checked.other.append(file)
        seen_one()
    return checked


def _look_at(file: File, min_side: int, max_pixels: int) -> Problem | None:
    """The file's problem; one without kinds for what nobody takes for a picture."""
    try:
        image = load_rgb(file.path, max_pixels)
    except ImageError as error:
        return _refused(file, error)
    found: dict[str, str] = {}
    width, height = image.size
    if min(width, height) < min_side:
        found["tiny"] = f"{width} x {height} pixels"
    if (much := plainness(image)).plain:
        found["blank"] = f"{much.bits:.1f} bits, {much.range:.0f} levels of gray"
    del image
    found |= _header(file, max_pixels)
    kinds = tuple(kind for kind in KINDS if kind in found)
    if not kinds:
        return None
    return Problem(file, kinds, "; ".join(found[kind] for kind in kinds))


def _refused(file: File, error: ImageError) -> Problem:
    reason = str(error).removeprefix(f"{sanitize(file.path)}: ")
    if not looks_like_picture(file):
        return Problem(file, (), reason)
    cut = any(word in reason.lower() for word in _CUT) or _lacks_end(file.path)
    return Problem(file, ("truncated" if cut else "unreadable",), reason)


def looks_like_picture(file: File) -> bool:
    """Whether a file is a picture by its name or content, or cannot be looked at."""
    try:
        return by_suffix(file.path) or by_content(read_head(file.path))
    except OSError:
        return True


def _lacks_end(path: str) -> bool:
    """Whether a file begins as a format whose last bytes are missing."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            tail = file.read()
    except OSError:
        return False  # the loader has said why it cannot be read
    kind = type_by_content(head)
    if kind == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return kind is not None and PICTURE_TYPES[kind].end not in tail


def _header(file: File, max_pixels: int) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        with (
            open(file.path, "rb") as opened,
            decoding(),
            identify(opened, max_pixels) as image,
        ):
            kind, frames = image.format, _frames(image)
    except (ImageError, OSError, Warning):
        return found  # it was read a moment ago: somebody changes it
    if frames != 1:
        found["animated"] = f"{frames or 'damaged'} frames"
    suffix = os.path.splitext(file.name)[1].lower()
    expected = PICTURE_TYPES.get("JPEG" if kind == "MPO" else kind)
    if expected and suffix not in expected.suffixes:
        found["suffix"] = f"{kind} called {sanitize(suffix) or 'without suffix'}"
    return found


def _frames(image: Any) -> int:
    """How many frames there are; 0 where those after the first are damaged."""
    if image.format == "MPO":
        return 1
    try:
        with decoding():
            return int(getattr(image, "n_frames", 1))
    except ImageError:
        return 0


def moves_of(
    checked: Checked, target: str, kinds: Collection[str] = tuple(KINDS)
) -> list[tuple[str, str]]:
    """Where the files with problems would go.

    Args:
        checked: a folder.
        target: a folder, in which each kind gets one.
        kinds: keys of `KINDS`; files that have only others stay.

    Raises:
        ValueError: no such kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"expected some of {', '.join(KINDS)}, got {kind!r:.80}")
    moves = []
    for problem in checked.problems:
        worst = next((kind for kind in problem.kinds if kind in kinds), None)
        if worst:
            where = os.path.join(os.path.abspath(target), worst, problem.file.name)
            moves.append((problem.file.path, where))
    return moves
