"""One thing to score, and which files are such things."""

from collections.abc import Callable
from dataclasses import dataclass

from open_nsfw_tf.errors import one_line
from open_nsfw_tf.filetype import by_content, by_suffix


@dataclass(frozen=True, slots=True)
class Item:
    """A row to be.

    Attributes:
        path: as the table calls it.
        picture: the path of a file, or the bytes of one; empty where there is none.
        error: why there is nothing to score, or None.
    """

    path: str
    picture: str | bytes
    error: str | None = None


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
