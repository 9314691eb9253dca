"""Reading pickled arrays without pickle, by an interpreter that calls no functions.

`unpickle` interprets the few opcodes that dicts of numpy's arrays need. The functions
that a pickle names are not called, every array's bytes must be in the stream, and
anything else is refused.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_nsfw_tf.errors import WeightsError

FLOATS = ("f2", "f4", "f8")
MAX_SIDE = 1 << 29  # of an array; more bytes than any weights have
MAX_OPCODES = 200_000  # the 107 layers take about 10,000
MAX_TUPLE = 9  # items; the longest tuple is the state of a dtype
MAX_TEXT = 1024  # characters of a name


@dataclass
class _Name:
    """A function or class that the stream names; it is never imported."""

    module: str
    name: str


@dataclass
class _Dtype:
    code: str
    order: str = "<"


@dataclass
class PickledArray:
    """The description of an array in a stream; `numpy` checks it."""

    shape: tuple[int, ...] = ()
    dtype: _Dtype | None = None
    fortran: bool = False
    data: Any = b""

    def numpy(self) -> np.ndarray:
        """The array itself, a view of the file's bytes."""
        code = self.dtype.code if self.dtype else "none"
        if self.dtype is None or code not in FLOATS:
            raise WeightsError(f"expected float arrays, got dtype {code!r}")
        dtype = np.dtype((">" if self.dtype.order == ">" else "<") + code)
        raw = _raw(self.data)
        size = dtype.itemsize
        for side in self.shape:
            size *= side
        if size != len(raw):
            raise WeightsError(
                f"an array of shape {self.shape} needs {size} bytes, the file has "
                f"{len(raw)}"
            )
        flat: np.ndarray = np.frombuffer(raw, dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _raw(data: object) -> bytes:
    if isinstance(data, str):  # Python 2's str, which pickletools reads as latin-1
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise WeightsError(f"expected an array's bytes, got {type(data).__name__}")
    return bytes(data) if isinstance(data, bytearray) else data


class _Machine:
    """The part of pickle's virtual machine that builds data: stack, marks and memo."""

    def __init__(self, limit: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = limit  # bytes that `encode` may still produce

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise WeightsError("the pickle takes more than it holds")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def append(self, items: list[Any]) -> None:
        self.expect(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        keys = [text(key) for key in items[::2]]
        self.expect(dict).update(zip(keys, items[1::2], strict=True))

    def mark_tuple(self) -> None:
        items = tuple(self.since_mark())
        if len(items) > MAX_TUPLE:
            raise WeightsError(f"refused: a tuple of {len(items)} items in weights")
        self.stack.append(items)

    def expect(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise WeightsError(f"the pickle fills a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def name(self, module: object, name: object) -> None:
        wanted = (text(module), text(name))
        if wanted not in _CALLS and wanted not in _CLASSES:
            raise WeightsError(
                f"refused: it asks for {wanted[0]:.80}.{wanted[1]:.80}, which weights "
                "do not need; this file may run code where it is unpickled"
            )
        self.stack.append(_Name(*wanted))

    def reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        key = (called.module, called.name) if isinstance(called, _Name) else None
        if key not in _CALLS:
            raise WeightsError("refused: it calls something that makes no array")
        self.stack.append(_CALLS[key](self, *arguments))

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, _Dtype):
            built.order = text(state[1])
        elif isinstance(built, PickledArray):
            _, shape, dtype, built.fortran, built.data = state
            built.shape, built.dtype = _shape(shape), dtype
        else:
            raise WeightsError("refused: it sets the state of something not an array")

    def encode(self, text: str, encoding: str = "") -> bytes:
        """The call by which Python 3 pickles bytes in protocol 2."""
        if not isinstance(text, str):
            raise WeightsError(f"refused: it encodes a {type(text).__name__}")
        self.budget -= len(text)
        if encoding != "latin1" or self.budget < 0:
            raise WeightsError("refused: bytes that no array needs")
        return text.encode("latin-1")


def text(value: object) -> str:
    """A name in the stream; Python 2's byte strings are latin-1.

    Raises:
        WeightsError: it is not a string, or is far too long.
    """
    if not isinstance(value, str | bytes) or len(value) > MAX_TEXT:
        raise WeightsError(f"expected a name, got {type(value).__name__}")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _shape(shape: object) -> tuple[int, ...]:
    # The value is not part of the message: the repr of a tuple that takes a few bytes
    # in the stream may have gigabytes.
    if not isinstance(shape, tuple) or len(shape) > 4:
        raise WeightsError("expected the shape of an array, of at most 4 sides")
    if not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape):
        raise WeightsError(f"expected a shape of sizes from 0 to {MAX_SIDE}")
    return shape


def _frombuffer(
    _: _Machine, data: Any, dtype: _Dtype, shape: object, order: object
) -> PickledArray:
    return PickledArray(_shape(shape), dtype, order == "F", data)


_CORES = ("numpy.core", "numpy._core")
_CLASSES = {("numpy", "ndarray")}
_CALLS: dict[Any, Callable[..., Any]] = {
    ("numpy", "dtype"): lambda _, code, *flags: _Dtype(text(code)),
    ("_codecs", "encode"): _Machine.encode,
    **{
        (f"{core}.multiarray", "_reconstruct"): lambda *_: PickledArray()
        for core in _CORES
    },
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in _CORES},
}

_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_OPCODES: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_LITERALS, lambda m, value: m.stack.append(value)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    **dict.fromkeys(
        ("BINPUT", "LONG_BINPUT"), lambda m, at: m.memo.update({at: m.stack[-1]})
    ),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda m, at: m.stack.append(m.memo[at])
    ),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "POP": lambda m, _: m.stack.pop(),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "TUPLE": lambda m, _: m.mark_tuple(),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, names: m.name(*names.split(" ")),
    "STACK_GLOBAL": lambda m, _: m.name(m.stack.pop(-2), m.stack.pop()),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}


def unpickle(data: bytes) -> object:
    """Interpret a pickle of dicts, lists, strings, numbers and float arrays.

    Args:
        data: the stream, as any Python from 2 on wrote it in protocol 2 to 5.

    Returns:
        The value; arrays are `PickledArray`, strings of Python 2 are latin-1 text.

    Raises:
        WeightsError: the stream contains anything else.
        ValueError: and other errors, if it is broken.
    """
    machine = _Machine(limit=len(data))
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > MAX_OPCODES:
            raise WeightsError(f"refused: more than {MAX_OPCODES} steps in a pickle")
        if opcode.name not in _OPCODES:
            raise WeightsError(f"refused: pickle opcode {opcode.name} in weights")
        _OPCODES[opcode.name](machine, argument)
    return machine.stack.pop()
