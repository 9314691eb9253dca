"""The exact loader: Caffe's input bit for bit, from every kind of picture."""

import hashlib
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import PIL
import pytest
from conftest import GOLDEN
from PIL import Image

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import (
    PICTURE_FORMATS,
    YAHOO,
    check_batch,
    create_yahoo_image_loader,
    load_rgb,
    pixels,
    preprocessing,
    tensor,
)

load = create_yahoo_image_loader(expand_dims=False)

UNREPRODUCIBLE = "numbers of real Caffe: the loader is wrong, not they"


def blob_sha256(tensor: np.ndarray) -> str:
    """What Caffe's input is known by: the SHA-256 of the NCHW blob."""
    blob = np.ascontiguousarray(tensor.transpose(2, 0, 1))
    return hashlib.sha256(blob.tobytes()).hexdigest()


@pytest.mark.parametrize("name", GOLDEN["samples"])
def test_samples_give_caffes_input(name: str) -> None:
    tensor = load(pictures.path(name))
    assert blob_sha256(tensor) == GOLDEN["samples"][name]["blob_sha256"], UNREPRODUCIBLE


@pytest.mark.parametrize("name", pictures.MADE)
def test_made_pictures_give_caffes_input(name: str) -> None:
    tensor = load(pictures.MADE[name]())
    assert blob_sha256(tensor) == GOLDEN["made"][name]["blob_sha256"], UNREPRODUCIBLE


def fixed_point_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pillow's bilinear filter along axis 0, in integers of 22 fractional bits."""
    scale = pixels.shape[0] / size
    support = max(scale, 1.0)
    rows = []
    for index in range(size):
        center = (index + 0.5) * scale
        low = max(0, int(center - support + 0.5))
        high = min(pixels.shape[0], int(center + support + 0.5))
        taps = np.arange(low, high)
        weights = np.maximum(0, 1 - np.abs((taps - center + 0.5) / support))
        fixed = np.floor(weights / sum(weights) * (1 << 22) + 0.5).astype(np.int64)
        total = np.tensordot(fixed, pixels[low:high].astype(np.int64), 1) + (1 << 21)
        rows.append(np.clip(total >> 22, 0, 255).astype(np.uint8))
    return np.stack(rows)


@pytest.mark.parametrize(
    "size", [(20, 2000), (7, 900), (1, 3000), (300, 4), (517, 1023)]
)
def test_resize_is_horizontal_first_whatever_pillow_does(size: tuple[int, int]) -> None:
    array = np.random.default_rng(5).integers(0, 256, (*size[::-1], 3), np.uint8)
    wide = fixed_point_resize(array.transpose(1, 0, 2), 256).transpose(1, 0, 2)
    expected = pixels(Image.fromarray(fixed_point_resize(wide, 256)), YAHOO)
    assert np.array_equal(pixels(Image.fromarray(array), YAHOO), expected)


def test_strips_of_threads_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocessing, "STRIP", 1)
    random = np.random.default_rng(7)
    sizes = [(1, 1), (2, 3), (3, 2), (20, 2000), (2000, 20), (1, 3000), (3000, 1)]
    sizes += random.integers(1, 700, (60, 2)).tolist()
    for width, height in sizes:
        array = random.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(array)
        expected = pixels(image, YAHOO)
        for threads in (2, 3, 7):
            assert np.array_equal(pixels(image, YAHOO, threads), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_strips_of_large_pictures_of_every_mode(mode: str) -> None:
    gray = np.random.default_rng(7).integers(0, 256, (1501, 1703), np.uint8)
    image = Image.fromarray(gray).convert("I" if mode == "I;16" else mode)
    image = image.convert(mode)
    assert image.width * image.height > 2 * preprocessing.STRIP
    assert np.array_equal(tensor(image, threads=2), tensor(image))


def test_pillow_13_alone_would_differ() -> None:
    """The reason for two resizes: without them this picture changes with Pillow."""
    pixels = np.random.default_rng(5).integers(0, 256, (2000, 20, 3), np.uint8)
    image = Image.fromarray(pixels)
    one = image.resize((256, 256), Image.Resampling.BILINEAR)
    two = image.resize((256, 2000), Image.Resampling.BILINEAR)
    two = two.resize((256, 256), Image.Resampling.BILINEAR)
    changed = int(Image.__version__.split(".")[0]) >= 13
    assert (np.asarray(one) != np.asarray(two)).any() == changed


def test_every_kind_of_input_is_the_same_picture() -> None:
    path = pictures.path("coffee.png")
    expected = load(path)
    with path.open("rb") as file:
        kinds = [str(path), path.read_bytes(), file, Image.open(path)]
        kinds += [np.asarray(Image.open(path)), io.BytesIO(path.read_bytes())]
        for kind in kinds:
            assert np.array_equal(load(kind), expected), type(kind)
    assert expected.shape == (224, 224, 3)
    assert expected.dtype == np.float32


def test_expand_dims_is_the_originals_default() -> None:
    assert create_yahoo_image_loader()(pictures.path("coffee.png")).shape == (
        1,
        224,
        224,
        3,
    )


def test_values_are_bytes_minus_the_mean() -> None:
    tensor = load(pictures.path("astronaut.png"))
    pixels = tensor + np.float32([104, 117, 123])
    assert np.array_equal(pixels, np.clip(np.round(pixels), 0, 255))


def test_the_users_image_is_not_changed() -> None:
    image = Image.new("RGB", (9, 9))
    image.info["comment"] = "kept"
    load(image)
    assert image.size == (9, 9)
    assert image.info == {"comment": "kept"}


def png(width: int, height: int) -> bytes:
    """A 1-bit PNG whose pixels are few bytes, however large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg() -> bytes:
    return pictures.encoded(pictures.sample("coffee.png"), "JPEG")


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"picture")
    file.close()
    return file


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"this is no picture", "not a picture"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a pict"),
    "pdf": (lambda: b"%PDF-1.4\n", "not a picture"),
    "jpeg header only": (lambda: b"\xff\xd8\xff", "not a picture"),
    "jpeg without end marker": (lambda: jpeg()[:-2], "truncated"),
    "jpeg cut": (lambda: jpeg()[: len(jpeg()) // 2], "truncated"),
    "png cut": (lambda: pictures.path("coffee.png").read_bytes()[:5000], "truncated"),
    "bomb": (lambda: png(20000, 20000), "more than the limit of 178,956,970"),
    "float array": (lambda: np.zeros((9, 9, 3)), "float64 of shape"),
    "gray array": (lambda: np.zeros((9, 9), np.uint8), "uint8 of shape"),
    "rgba array": (lambda: np.zeros((9, 9, 4), np.uint8), "uint8 of shape"),
    "empty array": (lambda: np.zeros((0, 9, 3), np.uint8), "at least 1 x 1"),
    "object array": (lambda: np.array([None]), "object of shape"),
    "none": (lambda: None, "NoneType"),
    "number": (lambda: 3, "int"),
    "text file": (lambda: io.StringIO("a"), "binary mode"),
    "closed file": (closed_file, "cannot be read"),
    "empty path": (lambda: "", "empty one"),
    "strange name": (lambda: "a\n\x1b[31m" + "b" * 5000, "a.n.x1b.31mbbb"),
    "null byte": (lambda: "a\0b", "null byte"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_image_errors_of_one_line(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(ImageError, match=reason) as caught:
        load(make())  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_crc_damage_is_refused() -> None:
    data = bytearray(pictures.path("coffee.png").read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="broken data stream when reading"):
        load(bytes(data))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "line\nbreak").write_bytes(b"no picture")
    for name, reason in [
        ("", "directory"),
        ("missing.jpg", "No such file"),
        ("pipe", "not a regular file"),
        ("empty.jpg", "empty"),
        ("line\nbreak", "line\\\\nbreak"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_pixel_cap_can_be_set() -> None:
    path = pictures.path("coffee.png")  # 600 x 400
    assert create_yahoo_image_loader(max_pixels=240_000)(path).shape[0] == 1
    with pytest.raises(ImageError, match="600 x 400"):
        create_yahoo_image_loader(max_pixels=239_999)(path)


def test_pillows_bomb_warning_is_neither_printed_nor_fatal() -> None:
    data = png(10000, 10000)  # above Pillow's warning, below its error
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert load(data).max() <= -104
    assert not seen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(data)


def test_a_mangled_jpeg_is_an_image_error_or_a_picture() -> None:
    data = jpeg()
    random = np.random.default_rng(11)
    read = refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for at in random.integers(2, 700, 3):
            broken[at] = random.integers(256)
        try:
            load(bytes(broken))
            read += 1
        except ImageError:
            refused += 1
    assert read + refused == 300
    assert refused > 20


def test_threads_share_one_loader() -> None:
    path = pictures.path("rocket.jpg")
    expected = load(path)
    found: list[bool] = []

    def work() -> None:
        found.extend(np.array_equal(load(path), expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([[1.0]], "got list"),
        (np.zeros((1, 224, 224, 3), np.uint8), "uint8"),
        (np.zeros((224, 224, 3), np.float32), "shape"),
        (np.zeros((1, 3, 224, 224), np.float32), "shape"),
        (np.full((1, 224, 224, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_bad_batches_are_refused(batch: object, reason: str) -> None:
    with pytest.raises((ValueError, TypeError), match=reason):
        check_batch(batch)


def test_formats_that_run_programs_are_not_read(tmp_path: Path) -> None:
    """Pillow would run Ghostscript for this one."""
    path = tmp_path / "drawing.jpg"
    pictures.sample("coffee.png").save(path, format="EPS")
    with pytest.raises(ImageError, match="not a picture this library reads"):
        load(path)
    assert "EPS" not in PICTURE_FORMATS


def icon(side: int) -> bytes:
    """An icon that says 16 x 16 and holds a PNG of another size."""
    data = png(side, side)
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(data), 22)
    return struct.pack("<3H", 0, 1, 1) + entry + data


def tiff(side: int) -> bytes:
    image = Image.new("1", (side, side))
    return pictures.encoded(image, "TIFF", compression="group4")


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
@pytest.mark.parametrize("make", [png, tiff, icon], ids=["png", "tiff", "icon"])
def test_the_cap_is_ours_in_every_format(make: Any) -> None:
    """Some of Pillow's plugins check sizes, and warn, on their own."""
    large, huge = ((s, s) if make is png else (s,) for s in (10_000, 14_000))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert load_rgb(make(*large)).width == 10_000
    assert not [w for w in seen if w.category is Image.DecompressionBombWarning]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(make(*large)).width == 10_000
    with pytest.raises(ImageError, match="14000 x 14000 pixels are more than"):
        load_rgb(make(*huge))
    assert load_rgb(make(*huge), max_pixels=200_000_000).width == 14_000
    with pytest.raises(ImageError, match="limit of 10,000"):
        load_rgb(make(*large), max_pixels=10_000)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # nobody else's limit was moved


def test_tiles_of_gigabytes_are_refused() -> None:
    data = bytearray(pictures.encoded(Image.new("L", (16, 16)), "TIFF"))
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    entries = [bytes(data[at + 2 + 12 * i :][:12]) for i in range(count)]
    entries += [struct.pack("<HHII", tag, 4, 1, 40_000) for tag in (322, 323)]
    table = struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    data[4:8] = struct.pack("<I", len(data))
    with pytest.raises(ImageError, match="40000 x 40000 pixels are more"):
        load_rgb(bytes(data) + table)


def test_metadata_never_decides_over_a_picture() -> None:
    """Pillow warns of this EXIF block; a warning may be an error in an application."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x1a\x01\x05\0\x01\0\0\0\xff\xff"
    head = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load(jpeg()[:2] + head + jpeg()[2:]), load(jpeg()))


@pytest.mark.parametrize("limit", [0, -1, 2.5, "9"])
def test_a_limit_is_a_number(limit: Any) -> None:
    with pytest.raises(ValueError, match="max_pixels"):
        create_yahoo_image_loader(max_pixels=limit)


def pillow_heif() -> Any:
    """The library, which needs a newer Pillow than this project does."""
    if tuple(map(int, PIL.__version__.split(".")[:2])) < (11, 1):
        pytest.skip("pillow-heif needs Pillow 11.1")
    return pytest.importorskip("pillow_heif")


def heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif().from_pillow(image).save(file, **options)
    return file.getvalue()


PHOTO = pictures.sample("coffee.png").resize((120, 80))


def test_heic_is_read_and_nothing_else_is_changed(tmp_path: Path) -> None:
    data = heic(PHOTO, quality=-1, chroma=444)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(data)
    read = load_rgb(path)
    assert read.size == (120, 80)
    assert np.abs(np.asarray(read, int) - np.asarray(PHOTO, int)).max() <= 3
    for kind in (str(path), data, io.BytesIO(data)):
        assert np.array_equal(load(kind), load(path))
    container = data[:8] + b"mif1" + data[12:]  # a brand that AVIF has too
    assert np.array_equal(load(container), load(path))
    assert "HEIF" not in Image.OPEN  # `Image.open` reads what it read before
    with pytest.raises(ImageError, match="120 x 80 pixels are more than the limit"):
        load_rgb(data, max_pixels=9_000)


def test_heics_of_other_kinds() -> None:
    """10 bits become 8, alpha is dropped, the first picture is taken."""
    rgba = PHOTO.convert("RGBA")
    rgba.putalpha(PHOTO.convert("L"))
    plain = np.asarray(load_rgb(heic(PHOTO, quality=-1, chroma=444)), int)
    seen = np.asarray(load_rgb(heic(rgba, quality=-1, chroma=444)), int)
    assert np.abs(seen - plain).max() <= 3
    deep = (np.asarray(PHOTO, np.uint16) << 8).astype(np.uint16)
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": -1, "chroma": 444}
    pillow_heif().encode("RGB;16", PHOTO.size, deep.tobytes(), file, **options)
    seen = np.asarray(load_rgb(file.getvalue()), int)
    assert np.abs(seen - plain).max() <= 4
    several = pillow_heif().from_pillow(PHOTO)
    several.add_from_pillow(PHOTO.rotate(180))
    file = io.BytesIO()
    several.save(file, quality=-1, chroma=444)
    assert np.abs(np.asarray(load_rgb(file.getvalue()), int) - plain).max() <= 3


def test_a_damaged_heic_is_an_image_error_or_a_picture() -> None:
    data = heic(PHOTO)
    random = np.random.default_rng(7)
    cases = [data[:size] for size in range(12, len(data), len(data) // 40)]
    cases.append(data[:12] + bytes(2000))
    for _ in range(60):
        broken = bytearray(data)
        for at in random.integers(12, len(data), 3):
            broken[at] = random.integers(256)
        cases.append(bytes(broken))
    refused = 0
    for case in cases:
        try:
            load(case)
        except ImageError as error:
            refused += 1
            assert str(error).isprintable()
            assert len(str(error)) < 600
    assert refused > 30


def test_without_its_library_heic_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1", b"hevc"):
        with pytest.raises(ImageError, match=r"pip install 'open_nsfw_tf\[heif\]'$"):
            load(head[:8] + brand + head[12:])


def broken_tiffs() -> list[bytes]:
    """Of which Pillow's logger complains, and libtiff itself."""
    many = bytearray(pictures.encoded(Image.new("RGB", (8, 8)), "TIFF"))
    at = many.index(struct.pack("<HHI", 277, 3, 1))  # samples per pixel
    many[at + 8 : at + 10] = b"\xff\xff"
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    lzw = bytearray(
        pictures.encoded(Image.fromarray(noise), "TIFF", compression="tiff_lzw")
    )
    lzw[40:140] = b"\xff" * 100
    return [bytes(many), bytes(lzw)]


def test_decoders_are_silent(tmp_path: Path) -> None:
    """In a process of its own, as pytest takes what loggers say."""
    for number, data in enumerate(broken_tiffs()):
        (tmp_path / f"{number}.tif").write_bytes(data)
    code = """
import sys, threading
from PIL import Image
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import load_rgb
def work():
    for path in sys.argv[1:] * 5:
        try:
            load_rgb(path)
        except ImageError as error:
            print(error)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print("own", file=sys.stderr)
for path in sys.argv[1:]:
    try:
        Image.open(path).load()
    except OSError:
        print("refused")
"""
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("0.tif: ") == done.stdout.count("1.tif: ") == 20
    assert done.stdout.count("refused\n") == 2
    ours, _, users = done.stderr.partition("own\n")
    assert not ours
    assert "More samples per pixel" in users  # whose own calls say what they said
