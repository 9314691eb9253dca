"""What would be moved, and under which free names."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from open_nsfw_tf.files import Names


@dataclass(slots=True)
class Move:
    """One file and where it goes; both paths are absolute."""

    source: str
    target: str


@dataclass(slots=True)
class Plan:
    """What would be done.

    Attributes:
        moves: in order; the targets are free, and no two are the same.
        missing: sources that are gone.
    """

    moves: list[Move] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def plan(pairs: Iterable[tuple[str, str]]) -> Plan:
    """Give every file a free name at its target.

    Args:
        pairs: source and wanted target, absolute paths.

    Returns:
        The moves. Where a name is taken, on the disk or in this plan, it gets a
        number: ``photo-2.jpg``.
    """
    made, names = Plan(), Names()
    for source, target in pairs:
        if os.path.lexists(source):
            made.moves.append(Move(source, names.free(target)))
        else:
            made.missing.append(source)
    return made
