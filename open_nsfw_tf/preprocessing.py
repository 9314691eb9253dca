"""What is done to a picture before a network sees it, as data that travels with a model.

Every network here takes a picture in the same steps: convert to RGB, resize both sides
with Pillow's bilinear filter (one axis at a time, horizontal first), perhaps Yahoo's
JPEG round trip, crop the middle, order the channels, take off a mean and multiply.
"""

from dataclasses import asdict, dataclass
from typing import Any

from open_nsfw_tf.errors import sanitize

ORDERS = ("BGR", "RGB")
LARGEST = 1024  # pixels a side: larger inputs are a mistake, or an attack on memory
_MAX = 3.4e38  # of float32, which the pixels become
_FIELDS = "expected the preprocessing's resize, crop, jpeg, order, mean and scale"


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a picture to a network's input.

    Attributes:
        resize: pixels, both sides, before the crop.
        crop: pixels, both sides, from the middle: the network's input.
        jpeg: whether the resized picture is saved as JPEG (quality 75, 4:2:0) and read
            again, as Yahoo's pipeline did.
        order: of the channels, "BGR" or "RGB".
        mean: of 0..255, taken off each channel, in their `order`.
        scale: what remains is multiplied by this.

    Raises:
        ValueError: a value that makes no sense.
    """

    resize: int
    crop: int
    jpeg: bool
    order: str
    mean: tuple[float, float, float]
    scale: float

    def __post_init__(self) -> None:
        sides = (self.resize, self.crop)
        if not all(type(side) is int and 1 <= side <= LARGEST for side in sides):
            raise ValueError(
                f"expected a resize and a crop of 1 to {LARGEST} pixels, got "
                f"{sanitize(self.resize, 40)} and {sanitize(self.crop, 40)}"
            )
        if self.crop > self.resize:
            raise ValueError(f"cannot crop {self.crop} pixels from {self.resize}")
        if self.order not in ORDERS or type(self.jpeg) is not bool:
            raise ValueError(f"{_FIELDS}; the order is BGR or RGB, jpeg a truth value")
        numbers = (*self.mean, self.scale)
        if len(self.mean) != 3 or not all(map(_is_number, numbers)):
            raise ValueError(f"{_FIELDS}; the mean has three numbers, the scale is one")

    @property
    def words(self) -> str:
        """The steps in words, for whoever finds a network without this project."""
        order = [f"RGB; bilinear resize to {self.resize}x{self.resize}"]
        if self.jpeg:
            order.append("JPEG, quality 75, and back")
        if self.crop != self.resize:
            order.append(f"centre crop {self.crop}x{self.crop}")
        order += [self.order] if self.order != "RGB" else []
        return "; ".join([*order, self.values])

    @property
    def values(self) -> str:
        """What is done to 0..255, in words."""
        return "minus mean" if self.scale == 1 else f"minus mean, times {self.scale:g}"

    def record(self) -> dict[str, Any]:
        """Itself as JSON can hold it; `from_record` makes it again."""
        return {**asdict(self), "mean": list(self.mean)}

    @classmethod
    def from_record(cls, record: object) -> "Preprocessing":
        """What `record` gave.

        Raises:
            ValueError: fields are missing or surplus, or make no sense.
        """
        if not isinstance(record, dict) or set(record) != set(cls.__annotations__):
            raise ValueError(_FIELDS)
        mean = record["mean"]
        return cls(**{**record, "mean": tuple(mean) if isinstance(mean, list) else ()})


def _is_number(value: object) -> bool:
    # compared, as an integer of JSON can be too large to convert
    return type(value) in (int, float) and abs(value) <= _MAX  # type: ignore[arg-type]


# yahoo/open_nsfw, classify_nsfw.py; its training mean.
YAHOO = Preprocessing(256, 224, True, "BGR", (104.0, 117.0, 123.0), 1.0)
