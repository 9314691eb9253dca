"""Text, which editors and spreadsheets write in several encodings; lists of paths."""

import codecs
import os
from abc import abstractmethod
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import IO, Any

from open_nsfw_tf.errors import one_line
from open_nsfw_tf.files import HEAD, LONGEST_PATH

LISTS = (".txt", ".lst", ".list")  # suffixes of text files with one path a line
_CHUNK = 1 << 14  # bytes
_MARKS = {  # UTF-32 comes before UTF-16, whose mark is the start of its own
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and its byte order mark's length."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name, len(mark)
    # In UTF-16 most characters have a null byte, nearly always the same one of the two;
    # null bytes that separate paths are rarer.
    pairs = len(start) // 2
    odd, even = start[1::2].count(0), start[0 : 2 * pairs : 2].count(0)
    if pairs > 1 and max(odd, even) > 0.6 * pairs and min(odd, even) < 0.1 * pairs:
        name = "utf-16-le" if odd > even else "utf-16-be"
        # Names of one character that null bytes separate look alike, but have no lines.
        if any(end.encode(name) in start for end in "\r\n"):
            return name, 0
    return "utf-8", 0


def as_utf8(file: IO[bytes]) -> IO[bytes]:
    """A text as UTF-8, without a byte order mark, with newlines at the ends of lines.

    UTF-16 and UTF-32 are recoded; lone carriage returns become newlines if the text has
    no other line ends. Bytes that are not UTF-8 stay as they are.

    Args:
        file: buffered and binary, at its start; it need not be seekable.

    Returns:
        A binary file; reading it raises ValueError where UTF-16 is cut or broken.
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
    """A stream that converts another one, block by block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._ready = file, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        more = True
        while more and not self._ready:
            data = self._file.read(_CHUNK)
            more = bool(data)
            self._ready = self._convert(data)
        part = self._ready[: len(buffer)]
        self._ready = self._ready[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    @abstractmethod
    def _convert(self, data: bytes) -> bytes:
        """The next bytes of the result; `data` is empty at the end."""


class _Recoded(_Filter):
    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file)
        self._name = encoding.upper()
        # A lone surrogate becomes bytes that are not UTF-8, which a name may contain.
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def _convert(self, data: bytes) -> bytes:
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeError as error:
            raise ValueError(
                f"cut or broken {self._name} text ({one_line(error)}): save it as UTF-8"
            ) from error
        return text.encode("utf-8", "surrogatepass")


class _Newlines(_Filter):
    def _convert(self, data: bytes) -> bytes:
        return data.replace(b"\r", b"\n")


def read_paths(file: IO[bytes]) -> Iterator[str]:
    """The paths of a list: one a line, or ended by null bytes, as by ``find -print0``.

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
        *paths, rest = (rest + data).split(b"\0")
        yield from paths
        if len(rest) > LONGEST_PATH:
            break
    yield rest
