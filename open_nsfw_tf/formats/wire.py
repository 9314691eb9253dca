"""Protobuf's wire format, walked without building anything.

A message of two bytes costs protobuf a hundred, so a small hostile file may claim much
memory. What a file holds is counted here first.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from open_nsfw_tf.errors import WeightsError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}  # bytes

Field = tuple[int, int, int, int]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of protobuf's, and where it ends.

    Raises:
        IndexError: the data end before it does.
        ValueError: it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def fields(data: bytes, at: int, end: int) -> Iterator[Field]:
    """The fields of one message that lies between two places of the data.

    Yields:
        A field's number, its wire type, where its content begins and where it ends.

    Raises:
        IndexError: the data end in a number.
        ValueError: a field is longer than the message, or of no known wire type.
    """
    while at < end:
        tag, begin = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            _, at = varint(data, begin)
        elif kind == BYTES:
            size, begin = varint(data, begin)
            at = begin + size
        elif kind in FIXED:
            at = begin + FIXED[kind]
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at > end:
            raise ValueError("a field that is longer than what it is in")
        yield number, kind, begin, at


def check_parts(data: bytes, descriptor: Any, limit: int) -> None:
    """Refuse a message that would be parsed into too many pieces.

    Every field counts, at any depth; so does every byte of packed 64-bit numbers, which
    become eight bytes each, and of 32-bit ones too short for float16 weights. Strings,
    raw data and other packed numbers become little more than they are.

    Args:
        data: the message.
        descriptor: protobuf's descriptor of it, which tells the messages within.
        limit: the largest number of pieces.

    Raises:
        IndexError, ValueError: it is cut or broken.
        WeightsError: there are more pieces.
    """
    count = 0
    ahead = [(descriptor, 0, len(data))]
    while ahead:
        kind, begin, end = ahead.pop()
        for number, wire, at, after in fields(data, begin, end):
            count += 1
            field = kind.fields_by_number.get(number)
            if wire == BYTES and field is not None:
                if field.message_type is not None:
                    ahead.append((field.message_type, at, after))
                elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
                    count += after - at
                elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32):
                    packed = np.frombuffer(data, np.uint8, after - at, at)
                    numbers = int(np.count_nonzero(packed < 128))
                    count += max(0, 2 * numbers - len(packed)) // 4
            if count > limit:
                raise WeightsError(
                    f"another network: more than {limit} parts in one "
                    f"{descriptor.name.removesuffix('Proto').lower()}"
                )
