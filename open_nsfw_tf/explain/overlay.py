"""The map of an explanation over its picture, as pixels or as SVG."""

import base64
from io import BytesIO
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from open_nsfw_tf.classifier import Explanation

# What a cell adds to the log-odds; this and more is drawn in full colour, in every
# picture, so that colours of different pictures can be compared. 49 cells of .25 alone
# would turn odds of 1:400 into 400:1.
FULL = 0.5
# Orange raises the score, blue lowers it: people of all kinds of colour vision tell
# them apart (Okabe and Ito, Color Universal Design, 2008).
RAISES, LOWERS = (213, 94, 0), (0, 114, 178)
OPACITY = 0.75  # of a cell in full colour
UNSEEN = (128, 128, 128)  # the border that the network does not see
UNSEEN_OPACITY = 0.6
SMALLEST = 256  # pixels, the shorter side of a drawing: smaller pictures are enlarged
LARGEST = 1600  # pixels, the longer side: larger pictures are reduced
LEGEND = 12  # a picture's width is so many times the legend's height


def overlay(image: Image.Image, explanation: Explanation) -> Image.Image:
    """A picture in shades of gray under the map of its explanation, and a legend.

    Args:
        image: RGB, as `open_nsfw_tf.image.load_rgb` returns it.
        explanation: of this picture.

    Returns:
        RGB, between `SMALLEST` and `LARGEST` pixels a side where the shape allows it.
    """
    return _with_legend(heatmap(image, explanation), explanation)


def heatmap(image: Image.Image, explanation: Explanation) -> Image.Image:
    """The same without a legend."""
    picture = _sized(image)
    layer = Image.new("RGBA", picture.size, (*UNSEEN, round(255 * UNSEEN_OPACITY)))
    draw = ImageDraw.Draw(layer)
    for area, colour, opacity in _tiles(explanation):
        left, top, right, bottom = _pixels(area, picture.size)
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(corners, (*colour, round(255 * opacity)))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _sized(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    factor = min(max(1, SMALLEST / short), LARGEST / long)
    sides = [max(1, round(side * factor)) for side in image.size]
    gray = image.convert("L")  # so that all colours are the map's
    return gray.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)


def _tiles(
    explanation: Explanation,
) -> list[tuple[tuple[float, float, float, float], tuple[int, int, int], float]]:
    """Of each cell the area, the colour and the opacity."""
    return [
        (
            explanation.area(row, column),
            RAISES if value > 0 else LOWERS,
            OPACITY * min(1.0, abs(float(value)) / FULL),
        )
        for (row, column), value in np.ndenumerate(explanation.cells)
    ]


def _pixels(
    area: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    left, top, right, bottom = area
    width, height = size
    return (
        round(left * width),
        round(top * height),
        round(right * width),
        round(bottom * height),
    )


def _caption(explanation: Explanation) -> str:
    return f"{explanation.of} {explanation.score:.4f}"


def _legend_texts(explanation: Explanation) -> tuple[str, str, str]:
    """Below the left end, the middle and the right end of the scale."""
    return f"lowers {-FULL:g}", _caption(explanation), f"{FULL:g} raises"


def _with_legend(drawn: Image.Image, explanation: Explanation) -> Image.Image:
    width, height = max(drawn.width, SMALLEST), drawn.height
    legend = width // LEGEND
    edge = legend // 6
    sheet = Image.new("RGB", (width, height + legend), "white")
    sheet.paste(drawn, (0, 0))
    font = ImageFont.load_default(0.4 * legend)
    draw = ImageDraw.Draw(sheet)
    bar = _scale(width - 2 * edge, 2 * edge)
    sheet.paste(Image.fromarray(bar), (edge, height + edge))
    places = ((edge, "lt"), (width // 2, "mt"), (width - edge, "rt"))
    for (x, anchor), text in zip(places, _legend_texts(explanation), strict=True):
        draw.text((x, height + 3.5 * edge), text, "black", font, anchor)
    return sheet


def _scale(width: int, height: int) -> np.ndarray:
    """The colours from `-FULL` to `FULL` over white: uint8 (height, width, 3)."""
    shares = np.linspace(-1, 1, width)[:, np.newaxis]
    colours = np.where(shares > 0, RAISES, LOWERS)
    row = 255 + (colours - 255) * (OPACITY * np.abs(shares))
    return np.tile(np.round(row).astype(np.uint8), (height, 1, 1))


def svg(image: Image.Image, explanation: Explanation) -> str:
    """The same drawing as SVG, whose picture is a JPEG inside: nothing else is loaded.

    Args:
        image: RGB, as `open_nsfw_tf.image.load_rgb` returns it.
        explanation: of this picture.
    """
    picture = _sized(image)
    width, height = picture.size
    file = BytesIO()
    picture.save(file, "JPEG")
    jpeg = base64.b64encode(file.getvalue()).decode()
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height + width / LEGEND:g}",
            "font-family": "sans-serif",
            "role": "img",
        },
    )
    _add(root, "title", _caption(explanation))
    _add(
        root, "image", href=f"data:image/jpeg;base64,{jpeg}", width=width, height=height
    )
    edge, *_ = explanation.area(0, 0)
    x, y = edge * width, edge * height
    seen = f"M{x:.2f} {y:.2f}V{height - y:.2f}H{width - x:.2f}V{y:.2f}Z"
    border = _add(root, "path", d=f"M0 0H{width}V{height}H0Z{seen}", **_fill(UNSEEN))
    border.set("fill-opacity", str(UNSEEN_OPACITY))
    _add(border, "title", "not seen by the network")
    for (left, top, right, bottom), colour, opacity in _tiles(explanation):
        cell = _add(root, "rect", **_fill(colour), x=left * width, y=top * height)
        cell.set("width", f"{(right - left) * width:.2f}")
        cell.set("height", f"{(bottom - top) * height:.2f}")
        cell.set("fill-opacity", f"{opacity:.3f}")
    _add_legend(root, width, height, explanation)
    return tostring(root, encoding="unicode") + "\n"


def _add(
    parent: Element, name: str, text: str = "", **attributes: str | float
) -> Element:
    """A new element; numbers get two decimals."""
    values = {
        key: value if isinstance(value, str) else f"{value:.2f}"
        for key, value in attributes.items()
    }
    element = SubElement(parent, name, values)
    element.text = text
    return element


def _fill(colour: tuple[int, int, int]) -> dict[str, str]:
    return {"fill": f"rgb{colour}"}


def _add_legend(
    root: Element, width: int, height: int, explanation: Explanation
) -> None:
    gradient = _add(_add(root, "defs"), "linearGradient", id="scale")
    for offset, colour, opacity in (
        (0, LOWERS, OPACITY),
        (0.5, LOWERS, 0),
        (0.5, RAISES, 0),
        (1, RAISES, OPACITY),
    ):
        stop = _add(gradient, "stop", offset=offset)
        stop.attrib |= {"stop-color": f"rgb{colour}", "stop-opacity": str(opacity)}
    edge = width / LEGEND / 6
    bar = _add(root, "rect", x=edge, y=height + edge, fill="url(#scale)")
    bar.attrib |= {"width": f"{width - 2 * edge:.2f}", "height": f"{2 * edge:.2f}"}
    places = ((edge, "start"), (width / 2, "middle"), (width - edge, "end"))
    for (x, anchor), words in zip(places, _legend_texts(explanation), strict=True):
        text = _add(root, "text", words, x=x, y=height + 5.5 * edge)
        text.attrib |= {"font-size": f"{2.4 * edge:.2f}", "text-anchor": anchor}
