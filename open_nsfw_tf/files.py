"""Files: which are pictures, what lies below a folder, text, and writing safely.

Every room that opens, lists, numbers or replaces files does it by what stands here.
"""

import codecs
import os
import re
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, Literal

from open_nsfw_tf.errors import one_line, sanitize

# -- which files are pictures

HEAD = 512  # bytes that tell what a file is; the mark of a tar stands at 257


@dataclass(frozen=True)
class PictureType:
    """How a format's files are recognised.

    Attributes:
        suffixes: of their names, in lower case.
        start: a pattern that their first bytes match.
        brands: of files that begin with a box ``ftyp``: one of these is among theirs.
        end: what their last bytes hold when they are whole; empty where none is sure.
    """

    suffixes: tuple[str, ...]
    start: re.Pattern[bytes] | None = None
    brands: frozenset[bytes] = frozenset()
    end: bytes = b""


def _starts(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# By Pillow's name. Of these alone `open_nsfw_tf.image` decodes pictures.
PICTURE_TYPES = {
    # A camera's JPEG with others behind it is an .mpo; Pillow calls it MPO.
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
    # Two letters are little: the reserved field must be empty.
    "BMP": PictureType((".bmp", ".dib"), _starts(rb"BM.{4}\x00{4}")),
    "TIFF": PictureType((".tif", ".tiff"), _starts(rb"II[*+]\x00|MM\x00[*+]")),
    "AVIF": PictureType((".avif", ".avifs"), brands=frozenset([b"avif", b"avis"])),
    "JPEG2000": PictureType(
        (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
        _starts(rb"\x00{3}\x0cjP  \r\n|\xff\x4f\xff\x51"),
    ),
    "ICO": PictureType((".ico",), _starts(rb"\x00\x00\x01\x00[^\x00]\x00")),
    # A letter and a digit may begin a text: a number or a comment must follow.
    "PPM": PictureType(
        (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), _starts(rb"P[1-6f](\s*#|\s+\d)")
    ),
    "HEIF": PictureType(
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        brands=frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()),
    ),
}
HEIF_NEEDED = "pip install 'open_nsfw_tf[heif]'"
_BRANDS = (8, 64, 4)  # where they stand: the first one, and the compatible ones


def heif_is_readable() -> bool:
    """Whether pillow-heif, of the extra `heif`, is installed."""
    return find_spec("pillow_heif") is not None


def type_by_suffix(name: str) -> str | None:
    """The type that a file's name says, a key of `PICTURE_TYPES`, or None."""
    suffix = os.path.splitext(name)[1].lower()
    types = PICTURE_TYPES.items()
    return next((known for known, kind in types if suffix in kind.suffixes), None)


def type_by_content(head: bytes) -> str | None:
    """The type of a file that begins so, a key of `PICTURE_TYPES`, or None.

    Args:
        head: the first bytes, `HEAD` of them where there are so many.
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
    return not is_litter(name) and _is_readable(type_by_suffix(name))


def by_content(head: bytes) -> bool:
    """Whether a file that begins so is a picture that can be decoded here."""
    return _is_readable(type_by_content(head))


def _is_readable(kind: str | None) -> bool:
    return kind is not None and (kind != "HEIF" or heif_is_readable())


def is_picture(path: str) -> bool:
    """Whether a file is a picture by its name or by its first bytes.

    A file that cannot be opened is none.
    """
    if by_suffix(path):
        return True
    try:
        return by_content(read_head(path))
    except OSError:
        return False


# -- and which are not

LITTER = "of the operating system"
OTHERS = "of other kinds"
_LITTER_NAMES = frozenset(
    (".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db")
    + ("ehthumbs_vista.db", "desktop.ini", ".directory")
)
_KINDS = 100  # that are counted, each by its suffix
_NAMED = 8  # of them that a message names
_LONGEST_SUFFIX = 12  # characters


def is_litter(name: str) -> bool:
    """Whether a name is one that macOS or Windows gives to files of its own.

    Beside each file ``photo.jpg`` on a foreign disk or in a zip, macOS puts its
    attributes as ``._photo.jpg``. What has such a name and is a picture by its first
    bytes is a picture all the same: nobody can hide one so.
    """
    base = os.path.basename(name)
    return base.startswith("._") or base.lower() in _LITTER_NAMES


class PassedOver(Counter[str]):
    """How many files were no pictures, by kind: their suffix, or what they are for."""

    def note(self, name: str, head: bytes = b"") -> None:
        """Count a file by its name and, where they were read, its first bytes."""
        kind = LITTER if is_litter(name) else os.path.splitext(name)[1].lower()
        if type_by_content(head) == "HEIF" and type_by_suffix(name) != "HEIF":
            kind = "HEIF"
        if len(kind) > _LONGEST_SUFFIX and kind != LITTER:
            kind = OTHERS
        self.count(kind or "without a suffix")

    def count(self, kind: str) -> None:
        """Count one of a kind; of hostile folders, not every suffix is remembered."""
        self[kind if kind in self or len(self) < _KINDS else OTHERS] += 1

    def __str__(self) -> str:
        """The counts in one line, the most frequent kinds first, and what would help."""
        ranked = sorted(self.items(), key=lambda pair: (-pair[1], pair[0]))
        known = [pair for pair in ranked if pair[0] != OTHERS]
        # What could be read is said, however little of it there is.
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


# -- what lies below a folder


@dataclass(frozen=True, slots=True)
class Entry:
    """Something below a folder.

    Attributes:
        path: with the folder's name, as it was given, in front.
        kind: "file", which may be a link to one, broken or no regular file; "link", to
            a folder; or "folder", one that cannot be read.
        error: why a folder cannot be read.
    """

    path: str
    kind: Literal["file", "link", "folder"]
    error: OSError | None = None


def walk(
    folder: str, enter: Callable[[str], bool] = lambda path: True
) -> Iterator[Entry]:
    """All that is below a folder, lazily and in the order of names.

    Links to folders are told of and not followed. One folder's names are held at a
    time, and those of the folders that it lies in.

    Args:
        folder: "" for the current one.
        enter: asked of each folder below it: whether it is looked into.
    """
    # A stack, not recursion: folders may be nested deeper than Python's calls.
    stack: list[Iterator[tuple[str, str]]] = [iter([(folder, "folder")])]
    while stack:
        path, kind = next(stack[-1], (None, ""))
        if path is None:
            stack.pop()
        elif kind != "folder":
            yield Entry(path, "link" if kind == "link" else "file")
        elif len(stack) == 1 or enter(path):
            try:
                stack.append(_entries(path))
            except OSError as error:
                yield Entry(path, "folder", error)


def _entries(folder: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder or os.curdir) as entries:
        found = sorted((entry.name, _kind(entry)) for entry in entries)
    return ((os.path.join(folder, name), kind) for name, kind in found)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError:  # a link that leads to itself
        return "file"


# -- reading


def open_regular(path: str) -> IO[bytes]:
    """Open a regular file, and nothing that would wait or never end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
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


# Of a file: bytes, and when it was changed last, in nanoseconds since 1970.
Stamp = tuple[int, int]


def stamp_of(path: str) -> Stamp | None:
    """Size and time of a regular file, by which it is known again. Links are followed.

    The path of a member of an archive, ARCHIVE/MEMBER, gets those of the archive.

    Returns:
        None where there is no regular file.
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
            return (status.st_size, status.st_mtime_ns) if regular else None


# -- text, which editors and spreadsheets write in several encodings

LISTS = (".txt", ".lst", ".list")  # suffixes of text files with a path a line
LONGEST_PATH = 1 << 16  # bytes of a path in a list
_CHUNK = 1 << 14  # bytes
_MARKS = {  # that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding of a text that begins so, and how many bytes its mark has."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name, len(mark)
    # UTF-16 without a mark has a null byte in most characters, nearly always on one
    # side; the null bytes between paths are fewer.
    pairs = len(start) // 2
    odd, even = start[1::2].count(0), start[0 : 2 * pairs : 2].count(0)
    if pairs > 1 and max(odd, even) > 0.6 * pairs and min(odd, even) < 0.1 * pairs:
        return ("utf-16-le" if odd > even else "utf-16-be"), 0
    return "utf-8", 0


def as_utf8(file: IO[bytes]) -> IO[bytes]:
    """A text in UTF-8, without a byte order mark, its lines ended by newlines.

    UTF-16 and UTF-32 are recoded; lone carriage returns become newlines where the text
    has no other line ends. Bytes that are no UTF-8 stay as they are.

    Args:
        file: buffered and binary, at its start; it need not seek. Reading what is
            returned raises ValueError where UTF-16 is cut or broken.
    """
    start = _peek(file)
    encoding, mark = encoding_of(start)
    file.read(mark)
    if encoding != "utf-8":
        file = BufferedReader(_Recoded(file, encoding))
    start = _peek(file)
    if b"\r" in start[:-1] and b"\n" not in start and b"\0" not in start:
        file = BufferedReader(_Newlines(file))
    return file


def _peek(file: Any) -> bytes:
    return bytes(file.peek(_CHUNK))


class _Filter(RawIOBase):
    """A stream made of another one, some bytes at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._ready = file, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        more = True
        while more and not self._ready:
            data = self._file.read(_CHUNK)
            more = bool(data)
            self._ready = self._made(data)
        made = self._ready[: len(buffer)]
        self._ready = self._ready[len(made) :]
        buffer[: len(made)] = made
        return len(made)

    def _made(self, data: bytes) -> bytes:
        raise NotImplementedError


class _Recoded(_Filter):
    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file)
        self._name = encoding.upper()
        # Half a character becomes bytes that are no UTF-8, as those of any odd name.
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def _made(self, data: bytes) -> bytes:
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeError as error:
            raise ValueError(
                f"cut or broken {self._name} text ({one_line(error)}): save it as UTF-8"
            ) from error
        return text.encode("utf-8", "surrogatepass")


class _Newlines(_Filter):
    def _made(self, data: bytes) -> bytes:
        return data.replace(b"\r", b"\n")


def read_paths(file: IO[bytes]) -> Iterator[str]:
    """The paths of a list: one a line or, as ``find -print0`` writes, before a null byte.

    Args:
        file: as for `as_utf8`.

    Raises:
        OSError: it cannot be read.
        ValueError: a path is longer than `LONGEST_PATH` bytes, or UTF-16 is broken.
    """
    text = as_utf8(file)
    split = _at_nulls if b"\0" in _peek(text) else _at_lines
    for path in split(text):
        if len(path) > LONGEST_PATH:
            raise ValueError(f"a path is longer than {LONGEST_PATH} bytes")
        if path:
            yield os.fsdecode(path)


def _at_lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(LONGEST_PATH + 1):
        path = line.removesuffix(b"\n").removesuffix(b"\r")
        yield path if path.strip() else b""


def _at_nulls(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while data := file.read(HEAD):
        *whole, rest = (rest + data).split(b"\0")
        yield from whole
        if len(rest) > LONGEST_PATH:
            break
    yield rest


# -- writing


def refuse_existing(
    path: str | os.PathLike[str], overwrite: bool = False, instead: str = "another file"
) -> None:
    """Refuse a destination where something is, be it a link that leads nowhere.

    Args:
        path: of the destination.
        overwrite: whether it may be replaced.
        instead: what the user might name.

    Raises:
        FileExistsError: something is there, and `overwrite` is False.
    """
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(
            f"{sanitize(path)} exists: name {instead}, or --overwrite"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, moved onto `path` if all went well.

    Raises:
        OSError: the folder is missing, read-only or full; or the path is a device or a
            pipe, which a move would take away from all others.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(
            f"{sanitize(path)}: expected the name of a file, got a device or pipe"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # which nobody has heard of
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


# -- names that are one on some disks, and locks


def name_key(name: str) -> str:
    """What two names share that some disks hold for one: case, and Unicode's forms."""
    plain = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", plain)


def check_distinct(names: Iterable[str]) -> None:
    """Refuse classes whose folders would be one on some disks.

    Raises:
        ValueError: two differ only in case, or in how Unicode writes their accents.
    """
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(name_key(name), name)
        if other != name:
            how = "how Unicode writes the same letters"
            if unicodedata.normalize("NFC", name) != unicodedata.normalize(
                "NFC", other
            ):
                how = "upper and lower case"
            raise ValueError(
                f"two classes differ only in {how}: rename one of "
                f"{sanitize(other)} and {sanitize(name)}"
            )


def lock(path: str | os.PathLike[str], meant: object) -> Callable[[], None]:
    """Keep other runs out of a file or a folder, until this one ends, even by a kill.

    Args:
        path: of the lock file, which goes in the end; a kill leaves it, and it locks no
            one out.
        meant: what it guards, for the error.

    Returns:
        What frees the lock.

    Raises:
        ValueError: another run holds it.
        OSError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path, thread_local=False)
    try:
        os.stat(os.path.dirname(path) or os.curdir)  # or it would be made
        held.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"{sanitize(meant)}: another run is writing to it; wait for its end"
        ) from error
    except OSError as error:
        error.filename = str(meant)  # not a hidden name
        raise

    def free() -> None:
        with suppress(OSError):  # Windows removes no open file; filelock does it then
            os.unlink(path)
        held.release()

    return free


# -- free names

LONGEST_NAME = 255  # bytes; what common file systems allow
LONGEST_SUFFIX = 32  # bytes


class Names:
    """Free names: neither on the disk nor given away before."""

    def __init__(self) -> None:
        """Nothing is given away yet."""
        self._given: set[str] = set()
        self._last: dict[str, int] = {}

    def free(self, target: str) -> str:
        """The target itself or, where that is taken, the next numbered name."""
        folder, name = os.path.split(target)
        stem, suffix = os.path.splitext(name)
        wanted = os.path.join(folder, fitting(stem, suffix))
        candidate = wanted
        number = self._last.get(wanted, 1)
        while candidate in self._given or os.path.lexists(candidate):
            number += 1
            candidate = os.path.join(folder, fitting(stem, suffix, f"-{number}"))
        self._last[wanted] = number
        self._given.add(candidate)
        return candidate


def fitting(stem: str, suffix: str, number: str = "") -> str:
    """A file name of at most 255 bytes; the stem is cut where it is longer."""
    if len(os.fsencode(suffix)) > LONGEST_SUFFIX:  # a dot in a long name
        stem, suffix = stem + suffix, ""
    while stem and len(os.fsencode(stem + number + suffix)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + number + suffix


def numbered(path: str, number: int) -> str:
    """The name of a further file of one name: ``photo-2.jpg``."""
    stem, suffix = os.path.splitext(path)
    return f"{stem}-{number}{suffix}"
