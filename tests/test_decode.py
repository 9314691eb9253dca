"""`decode="scaled"`: what it does to large JPEG files, and that it does no more."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pictures import encoded, sample
from PIL import Image
from test_cli import open_nsfw

from open_nsfw_tf import Classifier
from open_nsfw_tf.batch.ray import Network
from open_nsfw_tf.batch.ray import _loaded as loaded_for_ray
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import YAHOO, Preprocessing, load_rgb, pixels, tensor

LEAST = 512  # pixels of both sides, for Yahoo's network
ALIGNED = Preprocessing(224, 224, False, "RGB", (0.0,) * 3, 1 / 255, "aligned")


def large(mode: str = "RGB", size: tuple[int, int] = (2100, 1500)) -> Image.Image:
    return sample("coffee.png").resize(size, Image.Resampling.BICUBIC).convert(mode)


LARGE = {
    "baseline": encoded(large(), "JPEG", quality=90),
    "progressive": encoded(large(), "JPEG", progressive=True),
    "4:4:4": encoded(large(), "JPEG", subsampling=0),
    "gray": encoded(large("L"), "JPEG"),
    "CMYK": encoded(large("CMYK"), "JPEG"),
    "two in one": encoded(
        large(), "MPO", save_all=True, append_images=[large(size=(300, 200))]
    ),
    "tall": encoded(large(size=(1100, 4500)), "JPEG"),
}


def drafted(data: bytes) -> Image.Image:
    """By Pillow alone: libjpeg's scaled decoding, then RGB."""
    with Image.open(BytesIO(data)) as image:
        image.draft(None, (LEAST, LEAST))
        return image.convert("RGB")


@pytest.mark.parametrize("kind", LARGE)
def test_scaled_is_the_drafted_picture_and_then_the_exact_rest(kind: str) -> None:
    data = LARGE[kind]
    small = drafted(data)
    assert load_rgb(data, least=LEAST).size == small.size < load_rgb(data).size
    assert min(small.size) >= LEAST
    scaled = tensor(data, decode="scaled")
    assert np.array_equal(scaled, tensor(small))
    assert not np.array_equal(scaled, tensor(data))


@pytest.mark.parametrize("kind", LARGE)
def test_exact_is_the_whole_picture(kind: str) -> None:
    with Image.open(BytesIO(LARGE[kind])) as image:
        whole = pixels(image.convert("RGB"), YAHOO)[..., ::-1]
    expected = whole.astype(np.float32) - np.array(YAHOO.mean, np.float32)
    assert np.array_equal(tensor(LARGE[kind]), expected)
    assert np.array_equal(tensor(LARGE[kind], decode="exact"), expected)


def test_what_is_no_large_jpeg_file_is_exact() -> None:
    image = large()
    pictures = {
        "PNG": encoded(image, "PNG", compress_level=1),
        "TIFF with JPEG inside": encoded(image, "TIFF", compression="jpeg"),
        "WebP": encoded(image.reduce(2), "WEBP", method=0, quality=50),
        "small": encoded(large(size=(1023, 2000)), "JPEG"),
        "narrow": encoded(large(size=(4000, 700)), "JPEG"),
        "image": image,
        "array": np.asarray(image),
    }
    for name, picture in pictures.items():
        found = tensor(picture, decode="scaled")
        assert np.array_equal(found, tensor(picture)), name


def test_the_users_open_jpeg_is_not_changed() -> None:
    with Image.open(BytesIO(LARGE["baseline"])) as image:
        found = tensor(image, decode="scaled")
        assert image.size == (2100, 1500)
    assert np.array_equal(found, tensor(LARGE["baseline"]))


def test_other_networks_get_twice_their_own_size() -> None:
    larger = Preprocessing(400, 299, False, "RGB", (0.0,) * 3, 1.0)
    found = tensor(LARGE["tall"], larger, decode="scaled")
    small = load_rgb(LARGE["tall"], least=800)
    assert np.array_equal(found, tensor(small, larger))


def test_limits_and_damage_are_told_as_of_exact_ones() -> None:
    with pytest.raises(ImageError, match="2100 x 1500 pixels are more than the limit"):
        tensor(LARGE["baseline"], max_pixels=1_000_000, decode="scaled")
    broken = LARGE["baseline"][:-5000]
    with pytest.raises(ImageError) as exact:
        tensor(broken)
    with pytest.raises(ImageError) as scaled:
        tensor(broken, decode="scaled")
    assert str(scaled.value) == str(exact.value)


@pytest.mark.parametrize("decode", ["fast", "", None, ["exact"]])
def test_other_words_are_refused(decode: Any) -> None:
    with pytest.raises(ValueError, match="expected decode exact or scaled, got"):
        Classifier(decode=decode)


def test_a_network_that_takes_single_pixels_is_refused() -> None:
    assert tensor(large(), ALIGNED).shape == (224, 224, 3)
    with pytest.raises(ValueError, match="takes single pixels .* use exact"):
        tensor(LARGE["baseline"], ALIGNED, decode="scaled")


def test_ray_refuses_before_it_starts() -> None:
    with pytest.raises(ValueError, match="expected decode exact or scaled"):
        loaded_for_ray(Network(decode="fast"))


def test_a_classifier_decodes_as_it_is_told(classifier: Any) -> None:
    data = LARGE["baseline"]
    scaled = Classifier("onnxruntime", decode="scaled")
    assert (classifier.decode, scaled.decode) == ("exact", "scaled")
    expected = tuple(classifier.classify(drafted(data)))
    assert expected != tuple(classifier.classify(data))
    assert tuple(scaled.classify(data)) == expected
    assert tuple(scaled.explain(data).scores) == expected
    many = list(scaled.classify_many([data] * 5))
    np.testing.assert_allclose(many, [expected] * 5, atol=1e-6)


def test_the_command_line_has_it(tmp_path: Any, classifier: Any) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(LARGE["baseline"])
    done = open_nsfw("classify", "--json", "--decode", "scaled", str(path))
    expected = classifier.classify(drafted(LARGE["baseline"])).nsfw
    assert json.loads(done.stdout)["nsfw"] == pytest.approx(expected, abs=1e-6)
    done = open_nsfw("classify", "--decode", "fast", str(path))
    assert done.returncode == 2
