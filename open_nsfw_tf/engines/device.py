"""Names of devices, the same for every engine: ``cpu``, ``cuda:1``, ``GPU:0``."""

import re
from collections.abc import Collection
from typing import NamedTuple

from open_nsfw_tf.errors import sanitize

DEFAULT = "cpu"
_NAME = re.compile(r"([a-z]+)(?::(\d{1,3}))?")


class Device(NamedTuple):
    """A device.

    Attributes:
        kind: in lower case: ``cpu``, ``gpu``, ``cuda``.
        number: among those of its kind, from 0.
    """

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


def choose(name: str | None, offered: Collection[str], engine: str) -> Device:
    """The device with a name, if the engine has it.

    Args:
        name: a kind, or a kind and a number: ``gpu`` is ``gpu:0``. Upper and lower case
            are the same. None is ``cpu``.
        offered: the engine's devices: ``cpu:0``, or ``cuda`` for any number.
        engine: its name, for the error.

    Raises:
        TypeError: the name is not a string.
        ValueError: there is no such device; the message lists the devices.
    """
    name = DEFAULT if name is None else name
    if not isinstance(name, str):
        raise TypeError(f"expected a device as text, such as 'cpu', got {name!r:.80}")
    match = _NAME.fullmatch(name.lower())
    if match:
        device = Device(match[1], int(match[2] or 0))
        if device.kind in offered or str(device) in offered:
            return device
    raise ValueError(
        f"{engine} has no device {sanitize(name)!r} here: choose one of "
        f"{', '.join(offered)}"
    )
