"""Which files are pictures, by their names and first bytes."""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO

from open_nsfw_tf.messages import shown

HEAD = 512  # bytes that tell what a file is; the mark of a tar stands at 257
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jpf",
        ".ico",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
# How the files of `open_nsfw_tf.picture.FORMATS` begin.
MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  \r\n",
    b"\xff\x4f\xff\x51",
    *(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b"\n\r\t #"),
)


def by_suffix(name: str) -> bool:
    """Whether a file's name is a picture's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def by_content(head: bytes) -> bool:
    """Whether a file that begins so is a picture."""
    if head.startswith(MAGIC):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return b"avi" in head[8:32]
    if head[:2] == b"BM":  # two letters; its reserved field must be empty
        return head[6:10] == b"\0\0\0\0"
    return head[:4] == b"\0\0\1\0" and head[5:6] == b"\0" < head[4:5]  # an icon


def is_picture(path: str) -> bool:
    """Whether a file is a picture by its name or by its first bytes.

    A file that cannot be opened is none.
    """
    if by_suffix(path):
        return True
    try:
        with open_regular(path) as file:
            return by_content(file.read(HEAD))
    except OSError:
        return False


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
                f"{shown(other)} and {shown(name)}"
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
            f"{shown(meant)}: another run is writing to it; wait for its end"
        ) from error
    except OSError as error:
        error.filename = str(meant)  # not a hidden name
        raise

    def free() -> None:
        with suppress(OSError):  # Windows removes no open file; filelock does it then
            os.unlink(path)
        held.release()

    return free


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
