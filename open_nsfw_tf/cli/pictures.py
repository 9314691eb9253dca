"""Pictures as commands name them: a path, or - for standard input.

Apart from `options`, which imports Typer: `classify_nsfw.py` does without it.
"""

import sys
from typing import IO

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.files import STDIN
from open_nsfw_tf.image import Picture


def picture_at(path: str) -> Picture:
    """The picture that an argument names: a path, or - for standard input.

    Raises:
        ImageError: standard input is closed.
    """
    return standard_input() if path == STDIN else path


def standard_input() -> IO[bytes]:
    """The binary standard input.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("-: expected a picture on standard input, which is closed")
    return sys.stdin.buffer
