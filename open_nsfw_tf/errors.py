"""What goes wrong here, as one tree, and how messages call things: one printable line.

Each error is also of the built-in type that fits it, so that a caller who knows only
Python's own catches it too.
"""

import os
import shlex

LONGEST_NAME = 200  # characters of a name that a file or a caller chose
LONGEST_REASON = 300  # characters of another library's words


class OpenNsfwError(Exception):
    """What everything that this package raises of its own has in common."""


class ImageError(OpenNsfwError, ValueError):
    """A picture that cannot be read, or is not one."""


class WeightsError(OpenNsfwError, ValueError):
    """Weights that cannot be found, read, trusted or fitted to the network."""


class ExportError(OpenNsfwError, RuntimeError):
    """An export that could not be made, or whose scores are not the model's."""


class TrainingError(OpenNsfwError, RuntimeError):
    """Training that cannot go on."""


class MoveError(OpenNsfwError, OSError):
    """Moving stopped; the message names the manifest that undoes what was moved."""


def sanitize(name: object, longest: int = LONGEST_NAME) -> str:
    """A name for a message: newlines and control characters escaped, cut if long."""
    text = name if isinstance(name, str) else str(name)
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def shell_word(name: str | os.PathLike[str]) -> str:
    """A path as a word of a command for people to copy: whole, quoted, printable."""
    text = os.fsdecode(name)
    if text.startswith("-"):  # or it would be an option
        text = f".{os.sep}{text}"
    if text.isprintable():
        return shlex.quote(text)
    # bash and zsh know $'...'; an escape stands for a byte, as names are bytes.
    plain = (c if c.isprintable() and c not in "\\'" else _bytes(c) for c in text)
    return f"$'{''.join(plain)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    text = " ".join(str(error).split())[:LONGEST_REASON]
    return sanitize(text, LONGEST_REASON) or type(error).__name__
