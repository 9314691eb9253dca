"""Writing an export beside its destination, and renaming it when it is complete."""

import os
import secrets
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import refuse_existing, remove


def check_free(target: Path, overwrite: bool, marker: str = "") -> None:
    """Refuse a destination that exists, unless an earlier export may be overwritten.

    Args:
        target: the destination.
        overwrite: whether an earlier export is replaced.
        marker: a file that every folder of the format has; "" for a file.

    Raises:
        FileExistsError: it exists and may not be replaced.
    """
    if not os.path.lexists(target):
        return
    refuse_existing(target, overwrite, "another location")
    # --overwrite must not delete a folder that is not an export.
    earlier = (target / marker).is_file() if marker else target.is_file()
    empty = marker and target.is_dir() and not any(target.iterdir())
    if not (earlier or empty or target.is_symlink()):
        raise FileExistsError(
            f"{sanitize(target)} is no earlier export of this format: --overwrite "
            "would delete it; name another location"
        )


def move(temporary: Path, target: Path) -> None:
    """Rename the finished export; an earlier one is removed after that."""
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


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files: list[Any] = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())
