"""Files: which are pictures, walking over folders, reading, and writing safely.

All parts of the package that open, list, number or replace files use these functions.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal

from open_nsfw_tf.errors import sanitize

# -- which files are pictures

HEAD = 512  # bytes that show a file's type; the magic number of tar is at 257


@dataclass(frozen=True)
class PictureType:
    """How a format's files are recognised.

    Attributes:
        suffixes: of the files' names, in lower case.
        start: a pattern that the first bytes match.
        brands: of files that begin with a box ``ftyp``, which lists one of these.
        end: how a complete file ends; empty if the format has no certain end.
    """

    suffixes: tuple[str, ...]
    start: re.Pattern[bytes] | None = None
    brands: frozenset[bytes] = frozenset()
    end: bytes = b""


def _starts(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# By Pillow's name of the format. `open_nsfw_tf.image` decodes no others.
PICTURE_TYPES = {
    # An .mpo, which Pillow calls MPO, is a camera's JPEG followed by others.
    "JPEG": PictureType(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        _starts(rb"\xff\xd8\xff"),
        end=b"\xff\xd9",
    ),
    "PNG": PictureType(
        (".png", ".apng"), _starts(rb"\x89PNG\r\n\x1a\n"), end=b"IEND\xaeB`\x82"
    ),
    "GIF": PictureType((".gif",), _starts(b"GIF8"), end=b";"),
    "WEBP": PictureType((".webp",), _starts(b"RIFF.{4}WEBP")),
    # Two letters are not enough to go by, so the reserved field must be empty too.
    "BMP": PictureType((".bmp", ".dib"), _starts(rb"BM.{4}\x00{4}")),
    "TIFF": PictureType((".tif", ".tiff"), _starts(rb"II[*+]\x00|MM\x00[*+]")),
    "AVIF": PictureType((".avif", ".avifs"), brands=frozenset([b"avif", b"avis"])),
    "JPEG2000": PictureType(
        (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
        _starts(rb"\x00{3}\x0cjP  \r\n|\xff\x4f\xff\x51"),
    ),
    "ICO": PictureType((".ico",), _starts(rb"\x00\x00\x01\x00[^\x00]\x00")),
    # A text may begin with such a letter and digit; a number or comment must follow.
    "PPM": PictureType(
        (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), _starts(rb"P[1-6f](\s*#|\s+\d)")
    ),
    "HEIF": PictureType(
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        brands=frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()),
    ),
}
# Containers of videos. A file of sounds may have the same beginning and suffix.
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg")
    + (".mpeg", ".m2v", ".vob", ".ts", ".m2ts", ".mts", ".flv", ".f4v", ".wmv", ".asf")
    + (".ogv", ".ivf")
)
_VIDEO_START = _starts(
    rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI |FLV\x01|\x00\x00\x01[\xba\xb3]|DKIF\x00\x00|"
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11|OggS.{20,60}\x80theora|"
    rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47|.{4}(moov|mdat|wide)"
)
_SOUNDS = (b"M4A ", b"M4B ", b"M4P ")  # brands of files that begin with a box ``ftyp``
HEIF_NEEDED = "pip install 'open_nsfw_tf[heif]'"
_BRANDS = (8, 64, 4)  # offsets of the major brand and of the compatible ones


def heif_is_readable() -> bool:
    """Whether pillow-heif, of the extra `heif`, is installed."""
    return find_spec("pillow_heif") is not None


def type_by_suffix(name: str) -> str | None:
    """The type of a file by its suffix: a key of `PICTURE_TYPES`, or None."""
    suffix = os.path.splitext(name)[1].lower()
    types = PICTURE_TYPES.items()
    return next((key for key, kind in types if suffix in kind.suffixes), None)


def type_by_content(head: bytes) -> str | None:
    """The type of a file by its first bytes: a key of `PICTURE_TYPES`, or None.

    Args:
        head: the first `HEAD` bytes, or the whole file if it is shorter.
    """
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(*_BRANDS)}
        for name, kind in PICTURE_TYPES.items():
            if not brands.isdisjoint(kind.brands):
                return name
        return None
    for name, kind in PICTURE_TYPES.items():
        if kind.start is not None and kind.start.match(head):
            return name
    return None


def by_suffix(name: str) -> bool:
    """Whether a file's name is that of a picture that can be decoded here."""
    return not is_system_file(name) and _is_readable(type_by_suffix(name))


def by_content(head: bytes) -> bool:
    """Whether a file with these first bytes is a picture that can be decoded here."""
    return _is_readable(type_by_content(head))


def is_video(name: str, head: bytes, select: str = "either") -> bool:
    """Whether a file is one of the videos that the extra `video` reads.

    Args:
        name: of the file.
        head: the first `HEAD` bytes; a picture, also an animation, is none.
        select: "suffix" goes by the name alone, "content" by the bytes, "either" takes
            what is one by one of them.
    """
    if type_by_content(head) is not None:
        return False
    suffix = os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
    if select == "suffix":
        return suffix and not is_system_file(name)
    unclear = name.lower().endswith(".ts")  # also the suffix of TypeScript
    if suffix and not unclear and select == "either" and not is_system_file(name):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] not in _SOUNDS
    return _VIDEO_START.match(head) is not None


def _is_readable(kind: str | None) -> bool:
    return kind is not None and (kind != "HEIF" or heif_is_readable())


def is_picture(path: str) -> bool:
    """Whether a file is a picture by its name or by its first bytes.

    False for a file with another suffix that cannot be opened.
    """
    if by_suffix(path):
        return True
    try:
        return by_content(read_head(path))
    except OSError:
        return False


# -- files that are passed over

SYSTEM_FILES = "of the operating system"
OTHERS = "of other kinds"
_SYSTEM_NAMES = frozenset(
    (".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db")
    + ("ehthumbs_vista.db", "desktop.ini", ".directory")
)
_KINDS = 100  # suffixes that are counted on their own
_NAMED = 8  # kinds that a message lists
_LONGEST_SUFFIX = 12  # characters


def is_system_file(name: str) -> bool:
    """Whether macOS or Windows gives this name to files of its own.

    Beside each file ``photo.jpg`` on a foreign disk or in a zip, macOS puts its
    attributes as ``._photo.jpg``. A file with such a name still counts as a picture if
    its first bytes are those of one, so that no picture can be hidden by its name.
    """
    base = os.path.basename(name)
    return base.startswith("._") or base.lower() in _SYSTEM_NAMES


class PassedOver(Counter[str]):
    """How many files were no pictures, by suffix, or as `SYSTEM_FILES` or `OTHERS`."""

    def note(self, name: str, head: bytes = b"") -> None:
        """Count a file by its name and, where they were read, its first bytes."""
        kind = os.path.splitext(name)[1].lower()
        if is_system_file(name):
            kind = SYSTEM_FILES
        if type_by_content(head) == "HEIF" and type_by_suffix(name) != "HEIF":
            kind = "HEIF"
        if len(kind) > _LONGEST_SUFFIX and kind != SYSTEM_FILES:
            kind = OTHERS
        self.count(kind or "without a suffix")

    def count(self, kind: str) -> None:
        """Count one file; the kinds are limited, as a hostile folder may have many."""
        self[kind if kind in self or len(self) < _KINDS else OTHERS] += 1

    def __str__(self) -> str:
        """The counts in one line, most frequent first, and how to read HEIF files."""
        ranked = sorted(self.items(), key=lambda pair: (-pair[1], pair[0]))
        known = [pair for pair in ranked if pair[0] != OTHERS]
        # Files that could be read with another package are always mentioned.
        named = known[:_NAMED] + [pair for pair in known[_NAMED:] if _is_heif(pair[0])]
        parts = [
            f"{count} {sanitize(kind)}"
            + f" (to read them: {HEIF_NEEDED})" * _is_heif(kind)
            for kind, count in named
        ]
        rest = self.total() - sum(count for _, count in named)
        return ", ".join(parts + [f"{rest} {OTHERS}"] * bool(rest))


def _is_heif(kind: str) -> bool:
    return kind == "HEIF" or kind in PICTURE_TYPES["HEIF"].suffixes


# -- walking over folders

SPLITS = {  # names of folders that hold class folders, and what they stand for
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder that is not entered, below a folder.

    Attributes:
        path: begins with the folder's name as it was given.
        kind: "file", also for a link to a file, a broken link, a pipe or a device;
            "link", to a folder; or "folder", one that cannot be read.
        error: why a folder cannot be read.
    """

    path: str
    kind: Literal["file", "link", "folder"]
    error: OSError | None = None


def entries(folder: str) -> Iterator[tuple[str, str]]:
    """What lies in a folder itself, in the order of names.

    Args:
        folder: "" for the current one.

    Returns:
        Paths that begin with the folder's name, and "file", "link" or "folder" for
        each, as in `Entry`.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder or os.curdir) as found:
        names = sorted((entry.name, _kind(entry)) for entry in found)
    return ((os.path.join(folder, name), kind) for name, kind in names)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError:  # a link that leads to itself
        return "file"


def walk(
    folder: str,
    enter: Callable[[str], bool] = lambda path: True,
    follow: Callable[[str], bool] = lambda path: False,
    entries_of: Callable[[str], Iterator[tuple[str, str]]] = entries,
) -> Iterator[Entry]:
    """Everything below a folder, lazily and in the order of names.

    Only the names in the current folder and in its parents are in memory.

    Args:
        folder: "" for the current one.
        enter: called with the path of each folder below it; False skips the folder.
        follow: called with the path of each link to a folder; False yields the link,
            True treats it as a folder.
        entries_of: what lies in a folder; another function for other file systems.
    """
    # A stack, not recursion: folders may be nested deeper than Python's calls.
    stack: list[Iterator[tuple[str, str]]] = [iter([(folder, "folder")])]
    while stack:
        path, kind = next(stack[-1], (None, ""))
        if path is None:
            stack.pop()
        elif kind == "file":
            yield Entry(path, "file")
        elif kind == "link" and not follow(path):
            yield Entry(path, "link")
        elif len(stack) == 1 or enter(path):
            try:
                stack.append(entries_of(path))
            except OSError as error:
                yield Entry(path, "folder", error)


def files_below(
    root: str | os.PathLike[str], follow: Callable[[str], bool] = lambda path: False
) -> Iterator[str]:
    """Every file of a folder and its folders, in order, by its path below the root.

    Hidden files and folders (`.name`) are left out; a link to a file is a file.

    Args:
        root: the folder.
        follow: as for `walk`.

    Raises:
        OSError: a folder cannot be read.
    """

    def follow_visible(path: str) -> bool:
        return not _is_hidden(path) and follow(path)

    for entry in walk(
        os.fspath(root), lambda path: not _is_hidden(path), follow_visible
    ):
        if entry.error is not None:
            raise entry.error
        if entry.kind == "file" and not _is_hidden(entry.path):
            yield os.path.relpath(entry.path, root)


# Links in a folder of classes. Training and evaluating take a link to a file for a
# file, and the folder of a class or of a split may be a link; links to folders further
# down are not followed. The commands of `open_nsfw_tf.dataset`, which move files,
# follow no link, as they would take files out of folders that were not named, and list
# those they meet.


def class_files(root: str | os.PathLike[str]) -> Iterator[str]:
    """The files of `files_below` in a folder of classes, in folders and by links."""
    top = os.path.abspath(root)

    def follow(path: str) -> bool:
        parts = os.path.relpath(path, top).split(os.sep)
        split = len(parts) == 2 and parts[0].lower() in SPLITS
        return (len(parts) == 1 or split) and leads_elsewhere(path)

    return files_below(root, follow)


def class_links(root: str) -> list[str]:
    """The classes of a folder that are links, which `class_files` follows.

    Raises:
        OSError: the folder cannot be read.
    """
    links = [path for path, kind in entries(root) if kind == "link"]
    return [link for link in links if not _is_hidden(link) and leads_elsewhere(link)]


def leads_elsewhere(link: str) -> bool:
    """Whether a link to a folder leads to another one than those that contain it."""
    inner, outer = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    try:
        return os.path.commonpath([outer, inner]) != outer
    except ValueError:  # another drive of Windows
        return True


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def canonical(path: str) -> str:
    """The absolute path of a file or link, without links among its folders."""
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(folder), name)


# -- reading

LONGEST_PATH = 1 << 16  # bytes of a path in a list or an archive
STDIN = "-"  # the name by which standard input is given


def open_regular(path: str) -> IO[bytes]:
    """Open a regular file; a pipe or a device, which may never end, is refused.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("expected a regular file")
    return os.fdopen(handle, "rb")


def read_head(path: str) -> bytes:
    """The first `HEAD` bytes of a regular file.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(HEAD)


def file_sha256(path: str) -> str:
    """The SHA-256 of a regular file's content, hexadecimal.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


# A file's size in bytes, and its modification time in nanoseconds since 1970.
Stamp = tuple[int, int]
_LATEST = (1 << 63) - 1  # ns since 1970, in 2262: tables keep times in 64 bits


def make_stamp(size: int, mtime_ns: int) -> Stamp:
    """A stamp of a size in bytes and a time in nanoseconds, within what tables keep."""
    return size, max(-_LATEST, min(mtime_ns, _LATEST))


def stamp_of(path: str) -> Stamp | None:
    """The size and time of a regular file, by which a change is noticed.

    Links are followed. A path inside an archive, ARCHIVE/MEMBER, gets the archive's.

    Returns:
        None if there is no regular file.
    """
    while True:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            folder = os.path.dirname(path)
            if folder in ("", path):
                return None
            path = folder
        except (OSError, ValueError):
            return None
        else:
            regular = stat.S_ISREG(status.st_mode)
            return make_stamp(status.st_size, status.st_mtime_ns) if regular else None


# -- writing


def refuse_existing(
    path: str | os.PathLike[str], overwrite: bool = False, instead: str = "another file"
) -> None:
    """Refuse a destination that exists, be it as a broken link.

    Args:
        path: of the destination.
        overwrite: whether it may be replaced.
        instead: what the message suggests to name.

    Raises:
        FileExistsError: it exists, and `overwrite` is False.
    """
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(
            f"{sanitize(path)} exists: name {instead}, or --overwrite"
        )


def check_free(target: Path, overwrite: bool, marker: str = "") -> None:
    """Refuse a destination that exists, unless it is an earlier result of its kind.

    Args:
        target: the destination.
        overwrite: whether an earlier one is replaced.
        marker: a file that every folder of its kind has; "" for a file.

    Raises:
        FileExistsError: it exists and may not be replaced.
    """
    if not os.path.lexists(target):
        return
    refuse_existing(target, overwrite, "another location")
    # --overwrite must not delete a folder of another kind.
    earlier = (target / marker).is_file() if marker else target.is_file()
    empty = marker and target.is_dir() and not any(target.iterdir())
    if not (earlier or empty or target.is_symlink()):
        raise FileExistsError(
            f"{sanitize(target)} is no earlier export of this format: --overwrite "
            "would delete it; name another location"
        )


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; at the end, those that stayed empty are removed.

    Raises:
        OSError: it cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # it has files, or another process has put some into it
            for each in made:
                each.rmdir()


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name in the path's folder; what has it at the end is removed."""
    temporary = path.with_name(temporary_name(path.name, secrets.token_hex(4)))
    try:
        yield temporary
    except OSError as error:
        # Not by a name that the user did not give. Without a number the message is all.
        ours = error.filename is None or str(temporary) in str(error.filename)
        if ours and error.errno is not None:
            error.filename = str(path)
            del error.filename2  # otherwise the message would contain it as None
        raise
    finally:
        with suppress(NotADirectoryError):
            remove(temporary)


def temporary_name(name: str, token: str) -> str:
    """A name of `beside`; with `*` as the token, a pattern of what killed runs left."""
    stem, suffix = os.path.splitext(name)
    return f".{stem}.{token}{suffix}"  # the suffix, as some libraries check it


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it has, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file is renamed to `path` after success.

    Raises:
        OSError: the folder is missing, read-only or full; or the path is a device or a
            pipe, which the renaming would replace for everybody.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(
            f"{sanitize(path)}: expected the name of a file, got a device or pipe"
        )
    with beside(path) as temporary:
        yield temporary
        temporary.replace(path)


def rename_over(temporary: Path, target: Path) -> None:
    """Rename a finished file or folder; an earlier one is removed after that."""
    if os.path.lexists(target):  # `check_free` has allowed to overwrite it
        old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            raise
        remove(old)
    else:
        temporary.rename(target)


# -- names that some disks do not tell apart, and locks


def name_key(name: str) -> str:
    """A name without case and Unicode form, which some disks do not tell apart."""
    plain = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", plain)


def check_distinct(names: Iterable[str]) -> None:
    """Refuse classes whose folders would be the same on some disks.

    Raises:
        ValueError: two differ only in case, or in how Unicode writes their accents.
    """
    by_key: dict[str, str] = {}
    for name in names:
        other = by_key.setdefault(name_key(name), name)
        if other != name:
            how = "upper and lower case"
            both = f"{sanitize(other)} and {sanitize(name)}"
            if len({unicodedata.normalize("NFC", each) for each in (name, other)}) == 1:
                how = "how Unicode writes the same letters"
                both = f"{other!a} and {name!a}"
            raise ValueError(f"two classes differ only in {how}: rename one of {both}")


def lock(path: str | os.PathLike[str], meant: object) -> Callable[[], None]:
    """Lock a file or a folder against other runs until this process ends.

    Args:
        path: of the lock file. It is removed when the lock is freed; a killed process
            leaves the file, but not the lock.
        meant: what is locked, for the error.

    Returns:
        A function that frees the lock.

    Raises:
        ValueError: another run holds it.
        OSError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path, thread_local=False)
    try:
        os.stat(os.path.dirname(path) or os.curdir)  # filelock would make the folder
        held.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"{sanitize(meant)}: another run is writing to it; wait for its end"
        ) from error
    except OSError as error:
        error.filename = str(meant)  # the user did not name the lock file
        raise

    def free() -> None:
        with suppress(OSError):  # on Windows filelock removes it, when it is closed
            os.unlink(path)
        held.release()

    return free


# -- free names

LONGEST_NAME = 255  # bytes; the limit of common file systems
LONGEST_SUFFIX = 32  # bytes


class Names:
    """Gives out free names: neither on the disk nor given out before.

    Args:
        overwrite: whether what is on the disk may be replaced, except `sources`.
        sources: paths of files that are read.
    """

    def __init__(self, overwrite: bool = False, sources: Iterable[str] = ()) -> None:
        self._overwrite = overwrite
        self._sources = {canonical(path) for path in sources}
        self._given: set[str] = set()
        self._last: dict[str, int] = {}

    def free(self, target: str) -> str:
        """The target itself or, where that is taken, the next numbered name."""
        folder, name = os.path.split(target)
        stem, suffix = os.path.splitext(name)
        wanted = os.path.join(folder, fitting(stem, suffix))
        candidate = wanted
        number = self._last.get(wanted, 1)
        while candidate in self._given or self._is_taken(candidate):
            number += 1
            candidate = os.path.join(folder, fitting(stem, suffix, f"-{number}"))
        self._last[wanted] = number
        self._given.add(candidate)
        return candidate

    def _is_taken(self, path: str) -> bool:
        if self._overwrite and canonical(path) not in self._sources:
            return False
        return os.path.lexists(path)


def fitting(stem: str, suffix: str, number: str = "") -> str:
    """A file name of at most 255 bytes; the stem is cut where it is longer."""
    if len(os.fsencode(suffix)) > LONGEST_SUFFIX:  # a dot in a long name
        stem, suffix = stem + suffix, ""
    while stem and len(os.fsencode(stem + number + suffix)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + number + suffix
