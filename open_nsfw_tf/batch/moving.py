"""Videos and animations in a batch: a row for each chosen frame.

The last row of a video has its file's size and time, and the rows before have none: a
video whose rows end earlier was not finished, and is scored anew. Where frames are
missing, the last row has no frame but the reason.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from open_nsfw_tf.batch.item import Item, failed
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.files import HEAD, is_video, read_head, type_by_content
from open_nsfw_tf.image import Picture, describe
from open_nsfw_tf.video import Limits, Sampling
from open_nsfw_tf.video.animation import is_animation
from open_nsfw_tf.video.process import Decoder

MAY_MOVE = ("GIF", "PNG", "WEBP", "AVIF")  # picture types that animations have, too


def is_moving(item: Item) -> bool:
    """Whether an item is a video, or a picture of several frames."""
    if item.error is not None:
        return False
    try:
        if isinstance(item.picture, bytes):
            head = item.picture[:HEAD]
        else:
            head = read_head(item.picture)
    except (OSError, ValueError):
        return False  # the classifier says what is wrong with it
    if is_video(os.path.basename(item.path), head):
        return True
    return type_by_content(head) in MAY_MOVE and is_animation(item.picture)


def frames_of(
    item: Item, sampling: Sampling, max_pixels: int, stop: Callable[[], bool]
) -> Iterator[tuple[Item, Picture]]:
    """The chosen frames of a video, each with what its row is made of.

    Args:
        item: the video, with its stamp.
        sampling: which frames are chosen.
        max_pixels: of a frame.
        stop: asked before each frame; True ends the frames, as a kill would.
    """
    without = replace(item, stamp=None)
    held: tuple[Item, Picture] | None = None
    try:
        decoder = Decoder(item.picture, sampling, Limits(pixels=max_pixels))
        for frame in decoder:
            if held is not None:
                yield held
            held = replace(without, frame=(frame.frame, frame.seconds)), frame.rgb
            if stop():
                decoder.close()
                yield held
                return
    except ImageError as error:
        yield _missing(item, error), b""
        return
    if decoder.reason is None and held is not None:
        held = replace(held[0], stamp=item.stamp), held[1]
    if held is not None:
        yield held
    if decoder.reason is not None:
        yield failed(item.path, f"partial: {decoder.reason}", item.stamp), b""
    elif held is None:
        yield failed(item.path, "there is no frame in it", item.stamp), b""


def _missing(item: Item, error: ImageError) -> Item:
    """The row of a video that cannot be opened; the path need not be repeated."""
    found = failed(item.path, error, item.stamp)
    reason = str(error).removeprefix(f"{describe(item.picture)}: ")
    return replace(found, error=reason)
