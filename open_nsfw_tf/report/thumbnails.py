"""Small copies of pictures, within the page itself."""

import base64
import os
from html import escape
from io import BytesIO

from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import load_rgb

SIDE = 176  # pixels, of the longer side
QUALITY = 60  # of the JPEG: about 5 kB
MAX_PIXELS = 50_000_000  # larger pictures get no thumbnail
LONGEST_PATH = 300  # characters of a path, which is seen when pointed at
END_OF_PATH = 45  # characters of it that are always seen


def thumbnail(path: str, root: str) -> str:
    """The HTML of a picture's thumbnail, or of the reason why there is none.

    Args:
        path: of the picture, trusted in nothing: it may be missing, or anything else.
        root: the folder where it may start, if it does not from the working directory.
    """
    place = path if os.path.isabs(path) or os.path.exists(path) else None
    place = place or os.path.join(root, path)
    try:
        picture = load_rgb(place, MAX_PIXELS)
    except ImageError as error:
        reason = str(error).removeprefix(f"{sanitize(place)}: ")
        return f'<span class="none">no preview: {escape(sanitize(reason, 80))}</span>'
    picture.thumbnail((SIDE, SIDE))
    file = BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = picture.size
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        'alt="">'
    )


def card(path: str, root: str, *words: str) -> str:
    """A thumbnail with words and the path below it, blurred until hovered or focused."""
    lines = "".join(f"<div>{escape(sanitize(line, 60))}</div>" for line in words)
    name = escape(sanitize(path, LONGEST_PATH))
    end = path if len(path) <= END_OF_PATH else f"…{path[-END_OF_PATH:]}"
    return (
        f'<div class="thumb"><div class="shade" tabindex="0">{thumbnail(path, root)}'
        f'</div>{lines}<code title="{name}">{escape(sanitize(end))}</code></div>'
    )
