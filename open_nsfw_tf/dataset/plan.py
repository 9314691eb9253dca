"""What would be moved, and under which free names."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

LONGEST_NAME = 255  # bytes; what common file systems allow
LONGEST_SUFFIX = 32  # bytes


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


class Names:
    """Free names: neither on the disk nor given away before."""

    def __init__(self) -> None:
        """Nothing is given away yet."""
        self._given: set[str] = set()
        self._last: dict[str, int] = {}

    def free(self, target: str) -> str:
        """The target itself or, where that is taken, the next numbered name."""
        folder, name = os.path.split(target)
        stem, suffix = os.path.splitext(name)
        wanted = os.path.join(folder, fitting(stem, suffix))
        candidate = wanted
        number = self._last.get(wanted, 1)
        while candidate in self._given or os.path.lexists(candidate):
            number += 1
            candidate = os.path.join(folder, fitting(stem, suffix, f"-{number}"))
        self._last[wanted] = number
        self._given.add(candidate)
        return candidate


def fitting(stem: str, suffix: str, number: str = "") -> str:
    """A file name of at most 255 bytes; the stem is cut where it is longer."""
    if len(os.fsencode(suffix)) > LONGEST_SUFFIX:  # a dot in a long name
        stem, suffix = stem + suffix, ""
    while stem and len(os.fsencode(stem + number + suffix)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + number + suffix
