"""One thing to score, and which files are such things."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from open_nsfw_tf.errors import one_line
from open_nsfw_tf.files import PassedOver, Stamp, by_content, by_suffix, stamp_of


@dataclass(frozen=True, slots=True)
class Item:
    """A row to be.

    Attributes:
        path: as the table calls it.
        picture: the path of a file, or the bytes of one; empty where there is none.
        error: why there is nothing to score, or None.
        stamp: size and time of the file, or of the archive, before it was read; None
            where there is no file.
    """

    path: str
    picture: str | bytes
    error: str | None = None
    stamp: Stamp | None = None


def stamped(item: Item) -> Item:
    """An item that knows its file's size and time, as they are before it is read."""
    if item.stamp is not None or not isinstance(item.picture, str):
        return item
    return replace(item, stamp=stamp_of(item.picture))


Wanted = Callable[[str], bool]  # of a path: whether it still needs its row


def failed(path: str, reason: str | BaseException) -> Item:
    """A row that has only an error."""
    return Item(path, b"", reason if isinstance(reason, str) else reason_of(reason))


def reason_of(error: BaseException) -> str:
    """What an error says, without the name that the row has anyway."""
    return (isinstance(error, OSError) and error.strerror) or one_line(error)


# What is taken from folders and archives: by the name, and by the first bytes, which
# are read only where the name has not decided.
Select = Callable[[str, Callable[[], bytes]], bool]
SELECT: dict[str, Select] = {
    "either": lambda name, head: by_suffix(name) or by_content(head()),
    "suffix": lambda name, head: by_suffix(name),
    "content": lambda name, head: by_content(head()),
    "all": lambda name, head: True,
}


def counting(select: str, passed_over: PassedOver) -> Select:
    """One of `SELECT` that notes what it does not take."""

    def taken(name: str, head: Callable[[], bytes]) -> bool:
        read: list[bytes] = []  # at most once, and only if the name has not decided

        def once() -> bytes:
            read.append(head())
            return read[-1]

        if SELECT[select](name, once):
            return True
        passed_over.note(name, b"".join(read))
        return False

    return taken
