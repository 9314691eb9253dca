"""How much there is to see in a picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 64  # pixels; a picture is looked at in this size
# Photographs have 4 to 7.6 bits and 47 to 230 levels, a chessboard 2.2 bits.
LEAST_BITS = 1.5
LEAST_RANGE = 10  # of 255 levels of gray


@dataclass(frozen=True, slots=True)
class Plainness:
    """What a small gray copy of a picture holds.

    Attributes:
        bits: entropy of its levels, 0 to 8.
        range: between the darkest and the lightest percent, 0 to 255.
    """

    bits: float
    range: float

    @property
    def plain(self) -> bool:
        """Whether the picture is blank, or nearly so."""
        return self.bits < LEAST_BITS or self.range <= LEAST_RANGE


def plainness(image: Image.Image) -> Plainness:
    """Measure a picture.

    Args:
        image: of mode RGB, any size.
    """
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L")
    gray = np.asarray(small)
    share = np.bincount(gray.ravel(), minlength=256) / gray.size
    share = share[share > 0]
    dark, light = np.percentile(gray, (1, 99))
    return Plainness(abs(float((share * np.log2(share)).sum())), float(light - dark))
