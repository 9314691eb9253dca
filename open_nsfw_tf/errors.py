"""The package's errors, and functions that make their messages one printable line.

Each error is also of the built-in type that fits it, so that a caller who catches only
Python's own errors catches it too.
"""

import os
import shlex

LONGEST_NAME = 200  # characters of a name in a message
LONGEST_REASON = 300  # characters of another library's message


class OpenNsfwError(Exception):
    """The base class of this package's own errors."""


class ImageError(OpenNsfwError, ValueError):
    """A picture that cannot be read, or is not one."""


class NotReadError(ImageError):
    """A picture that nobody has looked at: its file, memory or a library is missing.

    Nothing is known against the picture itself, and another try may succeed.
    """


class PixelLimitError(ImageError):
    """A picture that has more pixels than the caller's limit."""


class WeightsError(OpenNsfwError, ValueError):
    """Weights that cannot be found, read, trusted or fitted to the network."""


class ExportError(OpenNsfwError, RuntimeError):
    """An export that could not be made, or whose scores are not the model's."""


class TrainingError(OpenNsfwError, RuntimeError):
    """Training that cannot go on."""


class MoveError(OpenNsfwError, OSError):
    """Moving files stopped; the message has the command that undoes what was moved."""


class RequestError(OpenNsfwError):
    """A request to the service that is refused.

    Args:
        status: of HTTP.
        code: one word for programs, such as ``too_large``.
        message: one sentence for people; never with the client's own words.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = retry_after


class QueueFull(RequestError):
    """More pictures wait than the queue holds."""

    def __init__(self) -> None:
        super().__init__(503, "queue_full", "too many pictures wait: try again", 1)


class DeadlineExpired(RequestError):
    """The request's time was over before its pictures were scored."""

    def __init__(self) -> None:
        super().__init__(504, "timeout", "the pictures were not scored in time")


def sanitize(name: object, longest: int = LONGEST_NAME) -> str:
    """A name for a message: newlines and control characters escaped, cut if long."""
    text = name if isinstance(name, str) else str(name)
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def shell_word(name: str | os.PathLike[str]) -> str:
    """A path quoted for a shell command that people copy: not cut, and printable."""
    text = os.fsdecode(name)
    if text.startswith("-"):  # otherwise it would be read as an option
        text = f".{os.sep}{text}"
    if text.isprintable():
        return shlex.quote(text)
    # The quotes $'...' of bash and zsh; an escape is a byte, as names are bytes.
    plain = (c if c.isprintable() and c not in "\\'" else _bytes(c) for c in text)
    return f"$'{''.join(plain)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def one_line(error: BaseException) -> str:
    """An error's message in one line; the name of its class if the message is empty."""
    text = " ".join(str(error).split())[:LONGEST_REASON]
    return sanitize(text, LONGEST_REASON) or type(error).__name__
