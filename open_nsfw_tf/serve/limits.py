"""What a request may be: its settings, its size, its encoding and its JSON.

Every refusal is a `RequestError`. Its message is written here and never repeats what
the client sent.
"""

import binascii
import json
import math
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.tables.decision import YAHOO_BAND, check_band

MEGABYTE = 1 << 20
# Values of a JSON document: numbers, lists, objects. The parser holds up everything
# else while it works, about .2 s for so many. A picture as 224 x 224 x 3 numbers has
# 150,528.
MAX_VALUES = 1_000_000
BASE64 = 4 / 3  # characters of base64 a byte
_ABOVE_ZERO = (
    "max_picture_mb",
    "max_pixels",
    "max_pictures",
    "queue",
    "timeout",
    "body_timeout",
    "header_timeout",
    "max_connections",
    "max_memory_mb",
)
_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the urlsafe alphabet
_WHITE = b" \t\n\v\f\r"
_STEP = MEGABYTE  # characters decoded at once, a multiple of 4: others run in between


@dataclass(frozen=True)
class Settings:
    """How the service decides, and its limits.

    Attributes:
        band: two scores. Below the first a picture is accepted, from the second on
            it is blocked, and what is between is for a human.
        positive: the classes that are looked for; their scores are added up. None:
            nsfw, which a model may lack; it leaves every picture for review.
        tokens: that clients must send; without any, everybody may ask.
        max_picture_mb: MiB of one picture file.
        max_pixels: larger pictures are refused before they are decoded.
        max_pictures: of one request.
        queue: pictures that wait; more are refused.
        timeout: seconds from a request's first line to its answer.
        body_timeout: seconds in which a request's body must arrive.
        header_timeout: seconds in which a request's headers must arrive.
        max_connections: open at the same time.
        max_memory_mb: MiB of all bodies that are held at the same time; scoring needs
            about three times as much.
        drain: seconds in which new requests are still taken after the order to stop,
            while `/health/ready` already says no.
        audit: the file that gets a JSON line a picture.
        audit_names: whether the pictures' names are written there.
        batch_size: pictures that the network computes at once; None: 1 on a CPU, where
            more are no faster, and 16 on other devices.
        batch_wait: seconds that a batch which is not full waits for more pictures;
            a batch of one picture, as on a CPU, is full.
        weights_sha256: of the network's weights, for answers, metrics and the audit
            file.

    Raises:
        ValueError: a value is out of range.
    """

    band: tuple[float, float] = YAHOO_BAND
    positive: tuple[str, ...] | None = None
    tokens: tuple[str, ...] = ()
    max_picture_mb: float = 20
    max_pixels: int = MAX_PIXELS
    max_pictures: int = 16
    queue: int = 64
    timeout: float = 30.0
    body_timeout: float = 30.0
    header_timeout: float = 10.0
    max_connections: int = 500
    max_memory_mb: float = 512
    drain: float = 1.0
    audit: Path | None = None
    audit_names: bool = False
    batch_size: int | None = None
    batch_wait: float = 0.0
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        check_band(self.band)
        for name in _ABOVE_ZERO:
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"expected {name} above 0, and finite, got {value}")
        for name in ("batch_wait", "drain"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"expected {name} from 0 on, and finite, got {value}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"expected batch_size from 1 on, got {self.batch_size}")

    @property
    def max_picture(self) -> int:
        """Bytes of one picture file."""
        return int(self.max_picture_mb * MEGABYTE)

    @property
    def most_pictures(self) -> int:
        """Of one request: no more than the queue holds."""
        return min(self.max_pictures, self.queue)

    @property
    def max_body(self) -> int:
        """Bytes of one request's body, compressed or not: four pictures in base64."""
        return int(4 * BASE64 * self.max_picture) + MEGABYTE


def parse_json(data: bytes) -> Any:
    """The value of a JSON document.

    Raises:
        RequestError: 400, it is no JSON in UTF-8, has NaN or infinite numbers, is
            nested too deep or has more than `MAX_VALUES` values.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise RequestError(
            400, "too_many_values", f"expected JSON of at most {MAX_VALUES:,} values"
        )
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise RequestError(400, "too_deep", "the JSON is nested too deep") from None
    except ValueError:
        raise RequestError(
            400, "invalid_json", "expected a JSON document in UTF-8 as the body"
        ) from None


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def decode_base64(text: str) -> bytes:
    """Decode base64 as `open_nsfw_tf.load_base64_tensor` does.

    Args:
        text: in the standard or the urlsafe alphabet, padded or not, with or without
            white space.

    Raises:
        ValueError: it is not base64.
    """
    try:
        padded = text.encode("ascii").translate(_STANDARD, _WHITE)
        data = padded.rstrip(b"=")
        if b"=" in data or len(padded) - len(data) > 2:
            raise ValueError("padding")
        data += b"=" * (-len(data) % 4)
        steps = range(0, len(data), _STEP)
        return b"".join(
            binascii.a2b_base64(data[start : start + _STEP], strict_mode=True)
            for start in steps
        )
    except ValueError:
        raise ValueError(
            "not base64: expected A-Z a-z 0-9 with +/ or -_, = only at the end"
        ) from None


def inflate(data: bytes) -> Iterator[bytes]:
    """The content of a gzip stream of one member, a mebibyte at a time.

    Raises:
        RequestError: 400, it is not gzip.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        for start in range(0, len(data), MEGABYTE):
            rest = data[start : start + MEGABYTE]
            while piece := stream.decompress(rest, MEGABYTE):
                yield piece
                rest = stream.unconsumed_tail
            if stream.unused_data:
                break
    except zlib.error:
        raise RequestError(400, "invalid_gzip", "expected a body in gzip") from None
    if not stream.eof or stream.unused_data:
        raise RequestError(
            400, "invalid_gzip", "expected a body of one whole gzip stream"
        )


def too_large(limit: int) -> RequestError:
    """The refusal of a body of more than `limit` bytes."""
    return RequestError(
        413, "too_large", f"expected a body of at most {limit / MEGABYTE:.1f} MiB"
    )


async def collect(
    chunks: AsyncIterator[bytes], limit: int, declared: str | None
) -> bytes:
    """The whole body, if it is no larger than the limit.

    Args:
        chunks: of the body.
        limit: bytes.
        declared: the header Content-Length, if there is one.

    Raises:
        RequestError: 413.
    """
    if declared and declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large(limit)
    body, size = [], 0
    async for chunk in chunks:
        body.append(chunk)
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
    return b"".join(body)
