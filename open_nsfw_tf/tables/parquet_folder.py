"""A table as a folder of Parquet files, each of which appears when it is complete.

Many machines can make rows at once, and a part is touched again only to take rows out
that have a later one: a run that was killed at any moment has left whole parts, and
temporary files that nobody reads.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import lock, made_folder, temporary_name
from open_nsfw_tf.tables import parquet
from open_nsfw_tf.tables.append import LOCK, Mode, Writer
from open_nsfw_tf.tables.rows import Chunk, Row

NAME = "part-{:06}.parquet"
TORN = temporary_name("part-*.parquet", "*")  # of killed runs


class PartsWriter(Writer):
    """Adds parts to a table. One process of a machine at a time may.

    Args:
        folder: of the parts; it is made if it is missing.
        columns: of every row; the first one is path.
        mode: "new" refuses a folder with parts; "resume" goes on with it, or begins it;
            "overwrite" removes its parts.

    Raises:
        FileExistsError: there are parts and `mode` is "new".
        OSError: the folder cannot be made or written to.
        ValueError: another run writes to it, or its parts are broken or have other
            columns.
        ImportError: the extra `parquet` is not installed.
    """

    EXISTS = "has a table in it"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        columns: Sequence[str],
        mode: Mode = "new",
    ) -> None:
        parquet.check_installed()
        super().__init__(folder, columns)
        if self.path.suffix in (".csv", ".jsonl") or self.path.is_file():
            raise ValueError(f"{sanitize(self.path)}: expected a folder for the parts")
        self._folder = ExitStack()
        self._folder.enter_context(made_folder(self.path))
        self._free = lock(self.path / LOCK, self.path)
        try:
            self._next = self._start(mode)
        except BaseException:
            self._close()
            raise
        self._end_videos()

    def _close(self) -> None:
        """Free the lock; a folder that was made for nothing goes."""
        super()._close()
        self._folder.close()

    def write(self, rows: Iterable[Row]) -> None:
        """Add a part: after it returns, no kill can lose its rows.

        Raises:
            OSError: the disk is full, or the like. The parts before are whole.
        """
        rows = list(rows)
        parquet.write_rows(self.path / NAME.format(self._next), self.columns, rows)
        self._next += 1
        for row in rows:
            self._note_row(row)

    def finish(self) -> None:
        """Make the table whole: each path has one row.

        Raises:
            OSError: the disk is full, or the like; "resume" can go on.
        """
        self.drop_stale()

    def drop_stale(self) -> None:
        """Leave each path its last row.

        Raises:
            OSError: the disk is full, or the like; "resume" can go on.
        """
        for part in files(self.path) if self._stale else ():
            parquet.remove_stale(part, self._stale)
        self._stale.clear()

    def _start(self, mode: Mode) -> int:
        """Read what is there, or remove it; the number of the next part."""
        parts = files(self.path)
        self._refuse(bool(parts) and mode == "new")
        for torn in self.path.glob(TORN):
            torn.unlink()
        if mode == "overwrite":
            for part in parts:
                part.unlink()
        elif mode == "resume":
            for part in parts:
                try:
                    for row in parquet.known_rows(part, self.columns):
                        self._note(*row)
                except ValueError as error:
                    raise ValueError(f"{sanitize(part)}: {one_line(error)}") from error
            self.drop_stale()  # what killed runs have left twice
        names = [part.stem.removeprefix("part-") for part in files(self.path)]
        return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def files(folder: Path) -> list[Path]:
    """The parts of a table, sorted; hidden files are none."""
    found = sorted(folder.glob("*.parquet"))
    return [path for path in found if not path.name.startswith((".", "_"))]


def chunks(folder: Path) -> Iterator[Chunk]:
    """Read a table as columns, some rows at a time; the first chunk is always there.

    Raises:
        OSError: a part cannot be read.
        ValueError: there are no parts, one is not whole, or their columns differ.
        ImportError: pyarrow is missing.
    """
    parts = files(folder)
    if not parts:
        raise ValueError("expected a folder of .parquet files, there are none in it")
    names: set[str] | None = None
    for part in parts:
        for chunk in parquet.chunks(part):
            names = names or set(chunk)
            if set(chunk) != names:
                raise ValueError(
                    f"{sanitize(part.name)}: expected the columns of the other parts, "
                    f"{', '.join(sorted(names))}, got {sanitize(', '.join(chunk), 80)}"
                )
            yield chunk
