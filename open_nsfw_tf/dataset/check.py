"""What is wrong with files: what the loader refuses, and what is odd about the rest."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from open_nsfw_tf.dataset.fingerprints import READ_DEFAULTS, ReadOptions, measure_detail
from open_nsfw_tf.dataset.folder import (
    File,
    ProposedMoves,
    Scan,
    check_kinds,
    propose,
    scan,
)
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import (
    HEAD,
    PICTURE_TYPES,
    by_content,
    by_suffix,
    read_head,
    type_by_content,
)
from open_nsfw_tf.image import decoding, identify, load_rgb
from open_nsfw_tf.parallel import in_order

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
class FileProblem:
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
class CheckResult:
    """What was found.

    Attributes:
        problems: in the order of the files.
        good: how many files have none.
        other: files that are pictures neither by their names nor by their first bytes;
            they are left alone.
        moves: of the files with problems; None where no target was given.
    """

    problems: list[FileProblem] = field(default_factory=list)
    good: int = 0
    other: list[File] = field(default_factory=list)
    moves: ProposedMoves | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Files of each kind; one with two problems counts twice."""
        counted = Counter(kind for found in self.problems for kind in found.kinds)
        return {kind: counted[kind] for kind in KINDS}


def check(
    folder: str | os.PathLike[str] | Scan,
    target: str | os.PathLike[str] | None = None,
    kinds: Collection[str] = tuple(KINDS),
    min_side: int = MIN_SIDE,
    reading: ReadOptions = READ_DEFAULTS,
    apply: bool = False,
) -> CheckResult:
    """Check every file of a folder, and move those with problems away.

    Unreadable or truncated is exactly what `open_nsfw_tf.image.load_rgb` refuses.

    Args:
        folder: of pictures, or a scan of it.
        target: a folder to move to, in which each kind gets one; None: move nothing.
        kinds: keys of `KINDS`; files that have only others stay.
        min_side: pixels; a picture with a shorter side is tiny.
        reading: how the pictures are read.
        apply: make the moves, rather than only propose them.

    Raises:
        OSError: the folder cannot be read, or a file cannot be moved.
        ValueError: `min_side` is negative, there is no such kind, or no target to
            apply moves to; or as `open_nsfw_tf.dataset.scan`.
    """
    if min_side < 0:
        raise ValueError(f"expected a min_side of at least 0, got {min_side}")
    if apply and target is None:
        raise ValueError("expected a target, a folder to move the files to, got none")
    check_kinds(kinds, KINDS)
    found = scan(folder, target)
    result = _check_files(found.files, min_side, reading)
    if target is not None:
        pairs = moves_of(result, kinds)
        result.moves = propose(pairs, found.files, target, "move", "check")
        if apply:
            result.moves.apply()
    return result


def _check_files(files: list[File], min_side: int, reading: ReadOptions) -> CheckResult:
    result = CheckResult()
    work = partial(_check_file, min_side=min_side, max_pixels=reading.max_pixels)
    found = in_order(work, files, reading.workers)
    for file, problem in zip(files, found, strict=True):
        if problem is None:
            result.good += 1
        elif problem.kinds:
            result.problems.append(problem)
        else:
            result.other.append(file)
        reading.progress()
    return result


def _check_file(file: File, min_side: int, max_pixels: int) -> FileProblem | None:
    """The file's problem; one without kinds for what nobody takes for a picture."""
    try:
        image = load_rgb(file.path, max_pixels)
    except ImageError as error:
        return _refused(file, error)
    found: dict[str, str] = {}
    width, height = image.size
    if min(width, height) < min_side:
        found["tiny"] = f"{width} x {height} pixels"
    if (detail := measure_detail(image)).is_blank:
        found["blank"] = f"{detail.bits:.1f} bits, {detail.range:.0f} levels of gray"
    del image
    found |= _header(file, max_pixels)
    kinds = tuple(kind for kind in KINDS if kind in found)
    if not kinds:
        return None
    return FileProblem(file, kinds, "; ".join(found[kind] for kind in kinds))


def _refused(file: File, error: ImageError) -> FileProblem:
    reason = str(error).removeprefix(f"{sanitize(file.path)}: ")
    if not looks_like_picture(file):
        return FileProblem(file, (), reason)
    cut = any(word in reason.lower() for word in _CUT) or _lacks_end(file.path)
    return FileProblem(file, ("truncated" if cut else "unreadable",), reason)


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
        return False  # the loader has reported why it cannot be read
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
    result: CheckResult, kinds: Collection[str] = tuple(KINDS)
) -> list[tuple[str, str]]:
    """Where below a target the files with problems would go: ``KIND/...``.

    Args:
        result: of a folder.
        kinds: keys of `KINDS`; files that have only others stay.

    Raises:
        ValueError: no such kind.
    """
    check_kinds(kinds, KINDS)
    moves = []
    for problem in result.problems:
        worst = next((kind for kind in problem.kinds if kind in kinds), None)
        if worst:
            where = os.path.join(worst, problem.file.name)
            moves.append((problem.file.path, where))
    return moves
