"""The float arrays of an HDF5 file, read from its bytes.

A damaged file makes the HDF5 library run for ever or claim all memory there is (seen
with HDF5 1.14.6 in groups and in strings). Weights come from strangers, so this reads
the little that they need: the layout that h5py writes unless told otherwise (version 0
of the superblock, groups as symbol tables, whole arrays), following the HDF5 File
Format Specification, version 3. Attributes are skipped. Whatever else is found is
refused by name.
"""

import math
import struct
from collections.abc import Iterator

import numpy as np

from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import from_file

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ROOT = 64  # where the superblock keeps the address of the root group
MAX_OBJECTS = 1 << 15  # nodes and entries; a training checkpoint of ours has 3,000
MAX_DEPTH = 16  # of groups in groups
MAX_NAMES = 1 << 20  # bytes, of all names in a group
MAX_NAME = 255  # bytes
MAX_SIDES = 8

# Types of the messages that describe an object.
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL = 0x01, 0x02, 0x03, 0x06, 0x07
LAYOUT, CONTINUATION, SYMBOL_TABLE = 0x08, 0x10, 0x11
_KEPT = (DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, SYMBOL_TABLE)

# The floats of IEEE 754, by what the datatype message says of their bits.
_FLOATS = {
    struct.pack("<HHBBBBI", 0, 16, 10, 5, 0, 10, 15): "f2",
    struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127): "f4",
    struct.pack("<HHBBBBI", 0, 64, 52, 11, 0, 52, 1023): "f8",
}
SOFT_LINK = 2  # the kind of an entry


def arrays(data: bytes, skip: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read every array of a file.

    Args:
        data: the whole file.
        skip: starts of paths that are not looked at.

    Returns:
        float32 arrays by their paths, such as ``layers/conv2d/vars/0``.

    Raises:
        WeightsError: it refers to other files, has arrays that are no floats or are
            chunked or compressed, or is of a layout that h5py does not write.
        ValueError, KeyError, struct.error: it is cut or broken.
    """
    if not data.startswith(SIGNATURE):
        raise WeightsError("expected an HDF5 file, got something else")
    if data[8] > 0 or data[13:15] != b"\x08\x08":
        raise WeightsError(
            f"expected HDF5 as h5py writes it, got a superblock of version {data[8]}: "
            "load it into Keras and save it again"
        )
    file = _File(data)
    found: dict[str, np.ndarray] = {}
    ahead = [("", file.number(ROOT))]
    while ahead:
        path, address = ahead.pop()
        if skip and path.startswith(skip):
            continue
        if path.count("/") > MAX_DEPTH:
            raise WeightsError("refused: its groups are nested deeper than any network")
        messages = file.messages(address)
        if SYMBOL_TABLE in messages:
            inside = file.entries(messages[SYMBOL_TABLE])
            ahead += [(f"{path}/{name}".lstrip("/"), at) for name, at in inside]
        elif LINK_INFO in messages or LINK in messages:
            raise WeightsError(f"refused: {path:.80} has links to somewhere else")
        else:
            found[path] = file.array(messages, path)
    return found


class _File:
    """Finds its way in the bytes; every step costs something of a budget."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.steps = MAX_OBJECTS
        self.room = len(data)  # bytes that arrays may still take

    def number(self, at: int, kind: str = "Q") -> int:
        """A number at an address."""
        return int(struct.unpack_from(f"<{kind}", self.data, at)[0])

    def piece(self, at: int, size: int) -> bytes:
        """The bytes at an address, all of them."""
        if at + size > len(self.data):
            raise ValueError(f"{size} bytes at {at} are not in the file")
        return self.data[at : at + size]

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise WeightsError("refused: it has more objects than any network")

    def expect(self, at: int, signature: bytes) -> None:
        self.step()
        if self.data[at : at + 4] != signature:
            raise ValueError(f"expected {signature.decode()} at {at}")

    def messages(self, address: int) -> dict[int, bytes]:
        """What describes an object: the first message of each type."""
        version, _, _, _, size = struct.unpack_from("<BBHII", self.data, address)
        if version != 1:
            raise ValueError(f"expected an object at {address}")
        found: dict[int, bytes] = {}
        blocks = [(address + 16, size)]
        while blocks:
            at, size = blocks.pop()
            end = at + size
            while at + 8 <= end:
                self.step()
                kind, size, flags = struct.unpack_from("<HHB", self.data, at)
                body = self.piece(at + 8, size)
                if kind == CONTINUATION:
                    blocks.append(struct.unpack_from("<QQ", body))
                # A shared message lies elsewhere; Keras' files have none.
                elif kind in _KEPT and not flags & 2:
                    found.setdefault(kind, body)
                at += 8 + size
        return found

    def entries(self, table: bytes) -> Iterator[tuple[str, int]]:
        """Names and addresses of what is in a group."""
        tree, heap = struct.unpack_from("<QQ", table)
        self.expect(heap, b"HEAP")
        size = min(self.number(heap + 8), MAX_NAMES)
        names = self.piece(self.number(heap + 24), size)
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            self.expect(node, b"TREE")
            level, used = self.data[node + 5], self.number(node + 6, "H")
            self.step(used)
            children = [self.number(node + 32 + 16 * index) for index in range(used)]
            if level:
                nodes += reversed(children)
                continue
            for leaf in children:
                self.expect(leaf, b"SNOD")
                for index in range(self.number(leaf + 6, "H")):
                    yield self.entry(leaf + 8 + 40 * index, names)

    def entry(self, at: int, names: bytes) -> tuple[str, int]:
        self.step()
        start, address, kind = struct.unpack_from("<QQI", self.data, at)
        end = names.index(b"\0", start, start + MAX_NAME + 1)
        name = names[start:end].decode()
        if kind == SOFT_LINK:
            raise WeightsError(f"refused: {name:.80} is a link to somewhere else")
        return name, address

    def array(self, messages: dict[int, bytes], path: str) -> np.ndarray:
        """An array of an object, as float32."""
        if EXTERNAL in messages:
            raise WeightsError(f"refused: {path:.80} keeps its numbers in another file")
        dtype, shape = _dtype(messages[DATATYPE], path), _shape(messages[DATASPACE])
        size = math.prod(shape) * dtype.itemsize
        self.room -= size
        if self.room < 0:
            raise WeightsError(
                f"cut or broken: with {path:.80} of shape {shape} its arrays are larger "
                "than the file"
            )
        version, kind = messages[LAYOUT][:2]
        if (version, kind) == (3, 0):  # compact: in the message itself
            raw = messages[LAYOUT][4:][:size]
        elif (version, kind) == (3, 1):
            raw = self.piece(struct.unpack_from("<Q", messages[LAYOUT], 2)[0], size)
        else:
            raise WeightsError(
                f"expected arrays as Keras writes them, {path:.80} is chunked, "
                "compressed or virtual: load it into Keras and save it again"
            )
        with np.errstate(all="ignore"):
            return from_file(np.frombuffer(raw, dtype).reshape(shape))


def _dtype(message: bytes, path: str) -> "np.dtype[np.floating]":
    floats = _FLOATS.get(message[8:20])
    if message[0] & 15 != 1 or floats is None:
        raise WeightsError(
            f"expected float arrays, {path:.80} has numbers of class {message[0] & 15}"
        )
    return np.dtype(f"{'>' if message[1] & 1 else '<'}{floats}")


def _shape(message: bytes) -> tuple[int, ...]:
    version, sides = message[:2]
    if version not in (1, 2) or sides > MAX_SIDES:
        raise ValueError("expected the shape of an array")
    return struct.unpack_from(f"<{sides}Q", message, 8 if version == 1 else 4)
