"""The TensorFlow loader must give the Pillow loader's numbers, or refuse."""

import base64
import functools
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pictures
import pytest
from PIL import Image, ImageFile

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import create_yahoo_image_loader
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.tf_image import (
    create_tensorflow_image_loader,
    load_base64_tensor,
    load_bytes_tensor,
)

tf = import_tensorflow()

yahoo = create_yahoo_image_loader()
graph = create_tensorflow_image_loader()

PHOTO = pictures.sample("astronaut.png")
SMALL = PHOTO.resize((160, 128))
OPAQUE_HALF = Image.merge("RGBA", (*SMALL.split(), SMALL.split()[0]))


def encode(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def noise(rng, height, width, channels=3):
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def frame_header(jpeg):
    """Return the offset of the marker FF C0..C2."""
    at = 2
    while jpeg[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at


def with_sampling(jpeg, factors):
    """Change the sampling of the first component; the number of blocks must agree."""
    at = frame_header(jpeg) + 11
    return jpeg[:at] + bytes([factors]) + jpeg[at + 1 :]


def with_adobe(jpeg, transform, jfif=True):
    segment = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return jpeg[:2] + segment + jpeg[2 if jfif else 20 :]


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(
        ">I", zlib.crc32(name + data)
    )  # fmt: skip


def png(width, height, depth, colour, rows=None, chunks=b""):
    """Write a PNG by hand: Pillow cannot write all the kinds that it reads."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if rows is None:
        size = (height, (width * channels * depth + 7) // 8)
        rows = np.random.default_rng(depth).integers(0, 256, size, dtype=np.uint8)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            chunks,
            png_chunk(b"IDAT", body),
            png_chunk(b"IEND", b""),
        ]
    )


def bmp(bits, packing=0, header=40, masks=(), height=13, body=None):
    row = (21 * bits + 31) // 32 * 4
    fields = (header, 21, height, 1, bits, packing, 0, 0, 0, 0, 0)
    head = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
    head = head.ljust(header, b"\0")
    if body is None:
        body = np.random.default_rng(bits).bytes(row * abs(height))
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + body


def gif_size(width, height):
    data = bytearray(encode(SMALL.quantize(32), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def animation(form, mode="RGB", **options):
    frames = [SMALL.rotate(angle).convert(mode) for angle in (0, 90, 180)]
    return encode(frames[0], form, save_all=True, append_images=frames[1:], **options)


def without_last_scan(jpeg):
    return jpeg[: jpeg.rindex(b"\xff\xda")] + b"\xff\xd9"


PALETTE = png_chunk(b"PLTE", bytes(range(192)))
JPEG = encode(SMALL, "JPEG", quality=85)
PROGRESSIVE = encode(SMALL, "JPEG", progressive=True)
PNG = encode(SMALL, "PNG")
GIF = encode(SMALL.quantize(32), "GIF")
WEBP = encode(SMALL, "WEBP")

EQUAL = {
    "jpeg 4:4:4": encode(SMALL, "JPEG", subsampling=0),
    "jpeg 4:2:2": encode(SMALL, "JPEG", subsampling=1),
    "jpeg 4:4:0": with_sampling(encode(SMALL, "JPEG", subsampling=1), 0x12),
    "jpeg 4:1:1": with_sampling(encode(SMALL, "JPEG", subsampling=2), 0x41),
    "jpeg restarts": encode(SMALL, "JPEG", restart_marker_blocks=3),
    "jpeg rgb": encode(SMALL, "JPEG", keep_rgb=True),
    "jpeg adobe 0": with_adobe(JPEG, 0, jfif=False),
    "jpeg adobe 1": with_adobe(JPEG, 1, jfif=False),
    "jpeg gray": encode(SMALL.convert("L"), "JPEG"),
    "jpeg gray progressive": encode(SMALL.convert("L"), "JPEG", progressive=True),
    "jpeg progressive": PROGRESSIVE,
    "jpeg garbage": JPEG + b"garbage" * 999,
    "jpeg zeros": JPEG + b"\0" * 99,
    "jpeg half": JPEG[: len(JPEG) // 2] + b"\xff\xd9",
    "jpeg fill": JPEG[:-2] + b"\xff\xff\xff\xd9",
    "jpeg comment": encode(SMALL, "JPEG", comment=b"\xff\xc0\xff\xd9" * 9),
    "png rgba": encode(OPAQUE_HALF, "PNG"),
    "png la": encode(OPAQUE_HALF.convert("LA"), "PNG"),
    "png palette": encode(SMALL.quantize(64), "PNG"),
    "png palette tRNS": encode(SMALL.quantize(64), "PNG", transparency=bytes(64)),
    "png short palette": png(37, 29, 8, 3, chunks=PALETTE),
    "png interlaced": encode(SMALL, "PNG", interlace=1),
    "apng": animation("PNG"),
    "apng default image": animation("PNG", default_image=True),
    "webp lossy alpha": encode(OPAQUE_HALF, "WEBP"),
    "webp lossless alpha": encode(OPAQUE_HALF, "WEBP", lossless=True),
    "webp animated": animation("WEBP"),
    "webp animated alpha": animation("WEBP", "RGBA"),
    "gif": GIF,
    "gif interlaced": encode(SMALL.quantize(32), "GIF", interlace=1),
    "gif animated": animation("GIF", "P"),
    "gif cut in frame 2": animation("GIF", "P")[:-900],
    "bmp 24": bmp(24),
    "bmp 24 top down": bmp(24, height=-13),
    "bmp 24 v5": bmp(24, header=124),
    "bmp 32": bmp(32),
    "bmp 32 fields": bmp(32, 3, header=56, masks=(0xFF0000, 0xFF00, 0xFF)),
    **{f"png {c}/{d}": png(37, 29, d, c) for c in (0, 2, 4, 6) for d in (8, 16)},
    **{f"png gray {d} bits": png(37, 29, d, 0) for d in (1, 2, 4)},
}

REFUSED = {  # name: data, what the reason says, whether Pillow refuses it too
    "nothing": (b"", "empty", True),
    "text": (b"not a picture", "not a JPEG, PNG, WebP, GIF or BMP", True),
    "svg": (b"<svg/>", "not a JPEG", True),
    "tiff": (encode(SMALL, "TIFF"), "not a JPEG", False),
    "jpeg 3 bytes": (b"\xff\xd8\xff", "no frame header", True),
    # Pillow's answer depends on where the last bits fall.
    "jpeg without EOI": (JPEG[:-2], "truncated or damaged JPEG", None),
    "jpeg minus 10": (JPEG[:-10], "truncated or damaged JPEG", True),
    "jpeg cut": (JPEG[: len(JPEG) // 2], "truncated or damaged JPEG", True),
    "jpeg cmyk": (encode(SMALL.convert("CMYK"), "JPEG"), "4 components", False),
    "jpeg lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), "JPEG", True),
    "progressive cut": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "JPEG", True),
    "progressive short": (without_last_scan(PROGRESSIVE), "scans are missing", False),
    "jpeg segments": (
        JPEG[:2] + b"\xff\xe1\x00\x02" * 20_000 + JPEG[2:],
        "more than 16384 segments",
        False,
    ),
    "png cut": (PNG[: len(PNG) // 2], "damaged PNG", True),
    "png crc": (PNG.replace(b"IHDR", b"IHDS", 1), "PNG", True),
    "png adler": (PNG[:-20] + bytes(4) + PNG[-16:], "damaged PNG", True),
    "png bomb": (png(20_000, 20_000, 1, 0, rows=[]), "too large", True),
    "png wide": (png(200_000, 1, 1, 0), "131072 a side", False),
    "webp cut": (WEBP[: len(WEBP) // 2], "damaged WebP", True),
    "gif cut": (GIF[: len(GIF) // 2], "damaged GIF", True),
    "gif transparent": (
        encode(SMALL.quantize(32), "GIF", transparency=3),
        "transparency",
        False,
    ),
    "gif canvas": (gif_size(200, 150), "does not fill", False),
    "gif bomb": (gif_size(65535, 65535), "does not fill", True),
    "bmp palette": (encode(SMALL.quantize(64), "BMP"), "8 bits", False),
    "bmp gray": (encode(SMALL.convert("L"), "BMP"), "8 bits", False),
    "bmp 1 bit": (encode(SMALL.convert("1"), "BMP"), "1 bits", False),
    "bmp 16 bits": (bmp(16), "16 bits", False),
    "bmp RLE": (bmp(8, 1, body=b"\x15\x07\0\0" * 13 + b"\0\1"), "compression 1", True),
    "bmp other fields": (
        bmp(32, 3, 56, masks=(0xFF000000, 0xFF0000, 0xFF00)),
        "compression 3",
        False,
    ),
    "bmp cut": (bmp(24)[:-70], "damaged BMP", True),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", EQUAL)
def test_kinds_of_files_equal_pillow(name):
    np.testing.assert_array_equal(graph(EQUAL[name]), yahoo(EQUAL[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    data, reason, by_pillow_too = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        graph(data)
    assert str(caught.value).startswith(f"<{len(data)} bytes>: ")
    assert "\n" not in str(caught.value)
    if by_pillow_too:
        with pytest.raises(ImageError, match=r"^<\d+ bytes>: \w"):
            yahoo(data)
    elif by_pillow_too is False:
        yahoo(data)


def random_file(rng):
    """Return an encoded picture: 1..3000 pixels a side, at most 2 megapixels."""
    width = int(np.exp(rng.uniform(0, np.log(3000))))
    limit = min(3000, 2_000_000 // width)
    height = int(np.exp(rng.uniform(0, np.log(limit))))
    if rng.random() < 0.2:
        pixels = noise(rng, height, width)
    else:
        left, top = rng.integers(0, 200, 2)
        part = PHOTO.crop((left, top, left + 300, top + 300))
        pixels = np.asarray(part.resize((width, height)))
        pixels = pixels ^ (noise(rng, height, width) >> 5)
    image = Image.fromarray(pixels)
    if rng.random() < 0.15:
        image = image.convert("L")
    form = rng.choice(["JPEG", "JPEG", "JPEG", "JPEG", "PNG", "WEBP", "BMP"])
    if form == "JPEG":
        return encode(
            image,
            form,
            quality=int(rng.integers(1, 101)),
            subsampling=int(rng.integers(0, 3)),
            progressive=bool(rng.random() < 0.4),
        )
    if form == "PNG":
        return encode(image, form, compress_level=1)
    if form == "WEBP":
        return encode(image, form, lossless=bool(rng.random() < 0.3), method=0)
    return encode(image.convert("RGB"), form)


@pytest.mark.parametrize("seed", range(8))
def test_random_files_equal_pillow(seed, monkeypatch):
    # Pillow reserves too little memory to write some progressive files.
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 2**24)
    rng = np.random.default_rng(seed)
    for number in range(25):
        data = random_file(rng)
        expected = yahoo(data)
        assert np.array_equal(graph(data), expected), (seed, number, data[:16])


@pytest.mark.parametrize("axis", [0, 1])
def test_resizing_equals_pillow_for_many_sizes(axis):
    rng = np.random.default_rng(axis)
    for size in [*range(1, 40), *range(40, 3000, 79), 255, 256, 257, 65_535, 131_072]:
        shape = (size, 2, 3) if axis else (2, size, 3)
        for pixels in (noise(rng, *shape), np.full(shape, 255, np.uint8)):
            assert np.array_equal(graph(pixels), yahoo(Image.fromarray(pixels))), shape


def test_every_kind_of_source(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    expected = yahoo(path)
    assert expected.shape == (1, 224, 224, 3)
    with path.open("rb") as file:
        sources = [path, str(path), JPEG, bytearray(JPEG), memoryview(JPEG), file]
        for source in sources:
            np.testing.assert_array_equal(graph(source), expected)
    image = Image.open(path)
    np.testing.assert_array_equal(graph(image), expected)
    np.testing.assert_array_equal(graph(np.asarray(image)), expected)
    single = create_tensorflow_image_loader(expand_dims=False)(path)
    np.testing.assert_array_equal(single, expected[0])
    assert single.dtype == np.float32


@pytest.mark.parametrize(
    "source, reason",
    [
        (None, "NoneType"),
        (3, "int"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"uint8 of shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least 1 x 1"),
        (io.StringIO("text"), "binary mode"),
    ],
)
def test_bad_sources_are_named(source, reason):
    with pytest.raises(ImageError, match=reason):
        graph(source)


def test_a_bad_file_is_named(tmp_path):
    for name, reason in (("missing.jpg", "No such file"), ("", "directory")):
        with pytest.raises(ImageError, match=reason) as caught:
            graph(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
    (tmp_path / "bad.jpg").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"bad\.jpg: not a JPEG"):
        graph(tmp_path / "bad.jpg")


def test_importing_does_not_load_tensorflow():
    code = (
        "import sys, open_nsfw_tf.tf_image as graph\n"
        "graph.create_tensorflow_image_loader()\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def base64_variants(data):
    standard, urlsafe = base64.b64encode(data), base64.urlsafe_b64encode(data)
    assert standard != urlsafe
    return {
        "standard": standard,
        "standard bare": standard.rstrip(b"="),
        "urlsafe": urlsafe,
        "urlsafe bare": urlsafe.rstrip(b"="),
        "lines": base64.encodebytes(data),
        "crlf": b"\r\n".join(standard[i : i + 64] for i in range(0, len(standard), 64)),
        "spaces": b" \t" + standard + b"\n\n",
    }


@pytest.mark.parametrize("extra", range(3))
def test_base64_variants(extra):
    data = JPEG + b"?>~" * 9 + b"x" * extra
    variants = base64_variants(data)
    batch = traced(load_base64_tensor)(tf.constant(list(variants.values())))
    expected = yahoo(data)[0]
    for name, blob in zip(variants, batch, strict=True):
        np.testing.assert_array_equal(blob, expected, err_msg=name)


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"====", "not base64"),
        (b"/9j/4A=A", "not base64"),
        (b"/9j/4", "not base64"),
        (b"data:image/jpeg;base64,/9j/", "not base64"),
        (b"\xff\xd8\xff", "not base64"),
        (b"QUJD", "not a JPEG"),
    ],
)
def test_bad_base64_names_the_element(text, reason):
    good = base64.b64encode(JPEG)
    run = traced(load_base64_tensor)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"picture 1: {reason}"):
        run(tf.constant([good, text, good]))


@functools.cache
def traced(load):
    return tf.function(load, input_signature=[tf.TensorSpec([None], tf.string)])


@pytest.mark.parametrize("load", [load_bytes_tensor, load_base64_tensor])
def test_empty_batch(load):
    for run in (load, traced(load)):
        batch = run(tf.constant([], tf.string))
        assert batch.shape == (0, 224, 224, 3)
        assert batch.dtype == tf.float32


def test_one_picture():
    run = traced(load_bytes_tensor)
    np.testing.assert_array_equal(run(tf.constant([PNG])), yahoo(PNG))
    with pytest.raises(tf.errors.InvalidArgumentError, match="damaged PNG"):
        run(tf.constant([PNG[:-50]]))


def test_batch_names_every_bad_element():
    run = traced(load_bytes_tensor)
    assert run.get_concrete_function().structured_outputs.shape == (
        tf.TensorShape([None, 224, 224, 3])
    )
    files = [JPEG, PNG, WEBP, GIF]
    expected = np.concatenate([yahoo(data) for data in files])
    np.testing.assert_array_equal(run(tf.constant(files)), expected)
    for load in (run, load_bytes_tensor):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="picture 1: "
        ) as caught:
            load(tf.constant([JPEG, JPEG[:-2], PNG, b"text"]))
        message = caught.value.message
        assert "picture 1: truncated or damaged JPEG" in message
        assert "picture 3: not a JPEG" in message
        assert "picture 0" not in message and "picture 2" not in message


def all_ops(graph_def):
    nodes = list(graph_def.node)
    for function in graph_def.library.function:
        nodes += function.node_def
    return {node.op for node in nodes}, {node.device for node in nodes}


def saved(tmp_path, load):
    module = tf.Module()
    module.serve = traced(load)
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    return tf.saved_model.load(str(tmp_path)).signatures["serving_default"]


def test_saved_model_needs_no_python(tmp_path):
    serve = saved(tmp_path, load_bytes_tensor)
    files = [JPEG, PROGRESSIVE, PNG, WEBP, animation("WEBP"), GIF, bmp(24)]
    (batch,) = serve(tf.constant(files)).values()
    np.testing.assert_array_equal(batch, np.concatenate([yahoo(d) for d in files]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="picture 2: truncated"):
        serve(tf.constant([JPEG, JPEG, PNG[:-60]]))
    ops, devices = all_ops(serve.graph.as_graph_def())
    assert {"DecodeJpeg", "EncodeJpeg", "MatMul"} <= ops
    assert not {op for op in ops if "Py" in op or "Numpy" in op}
    assert all("GPU" not in device for device in devices)


def test_frozen_graph_keeps_the_check():
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    run = traced(load_bytes_tensor)
    frozen = convert_variables_to_constants_v2(run.get_concrete_function())
    definition = tf.compat.v1.GraphDef.FromString(
        frozen.graph.as_graph_def().SerializeToString()
    )
    source, target = frozen.inputs[0].name, frozen.outputs[0].name
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            batch = session.run(target, {source: [JPEG, PNG]})
            np.testing.assert_array_equal(batch[1], yahoo(PNG)[0])
            with pytest.raises(tf.errors.InvalidArgumentError, match="picture 1: not"):
                session.run(target, {source: [JPEG, b"text"]})


def segment(code, body, size=None):
    return bytes([0xFF, code]) + struct.pack(">H", size or len(body) + 2) + body


def exif(kind, count, value):
    """EXIF with a resolution of one kind, and its unit."""
    entries = [(0x11A, kind, count, value), (0x128, 3, 1, b"\2\0\0\0")]
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\2\0" + table + bytes(4))


TINY = PHOTO.resize((24, 16))
TINY_JPEG = encode(TINY, "JPEG")
BARE_JPEG = TINY_JPEG[:2] + TINY_JPEG[20:]  # without JFIF's segment
HEADS = {
    0xE0: b"JFIF\0\1\1\0\0\1\0\1\0\0",
    0xE1: b"http://ns.adobe.com/xap/1.0/\0<x/>",
    0xE2: b"ICC_PROFILE\0\1\1abc",
    0xED: b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\4abcd8BIM\4\4\0\0\0\0\0\0",
    0xEE: b"Adobe\0\x64\0\0\0\0\1",
}


def malformed_jpegs():
    """Segments that are short, long, empty, doubled, of odd kinds and places."""
    for code in [*range(0xC0, 0x100), 0, 1, 2, 0xBF]:
        for size in (None, 1, 3):
            yield BARE_JPEG[:2] + segment(code, b"ab", size) + BARE_JPEG[2:]
        yield BARE_JPEG[:2] + bytes([0xFF, code]) + BARE_JPEG[2:]
    for code, head in HEADS.items():
        for size in range(len(head) + 1):
            yield BARE_JPEG[:2] + segment(code, head[:size]) + BARE_JPEG[2:]
    for kind in range(1, 13):
        for count in range(4):
            for value in (b"7\0\0\0", b"1234"):
                yield BARE_JPEG[:2] + exif(kind, count, value) + BARE_JPEG[2:]
    whole = exif(2, 1, b"7\0\0\0")[4:]
    two = segment(0xE1, whole[:20]) + segment(0xE1, b"Exif\0\0" + whole[20:])
    yield BARE_JPEG[:2] + two + BARE_JPEG[2:]
    scan = TINY_JPEG.index(b"\xff\xda")
    for at in range(2, scan + 14, 5):
        yield TINY_JPEG[:at] + TINY_JPEG[at + 1 :]
        yield TINY_JPEG[:at] + b"\0" + TINY_JPEG[at:]
        yield TINY_JPEG[:at] + b"\xff\xd9"
    for tail in (b"\0", b"\xff", b"\xff\xd8", TINY_JPEG):
        yield TINY_JPEG + tail


def malformed_pngs():
    """Chunks that are short, damaged, doubled, of odd kinds and in odd positions."""
    data = encode(TINY, "PNG")
    header, body = data[:33], data[33:]
    names = "gAMA cHRM sRGB pHYs tRNS tEXt zTXt iTXt iCCP eXIf acTL fcTL fdAT teST IEND"
    for name in map(str.encode, names.split()):
        for size in (0, 1, 3, 8, 31, 40):
            for fill in (b"\0", b"a"):
                chunk = png_chunk(name, fill * size)
                yield header + chunk + body
                yield data[:-12] + chunk + data[-12:]
        chunk = png_chunk(name, bytes(40))
        yield header + chunk[:-1] + b"?" + body  # its checksum
        yield data[:-12] + chunk[:-1] + b"?" + data[-12:]
        yield header + b"\0\1\0\0" + chunk[4:] + body  # its size
    large = png_chunk(b"tEXt", b"k\0" + b"a" * 200_000)
    yield header + large + body
    yield header + large[:-1] + b"?" + body
    for cut in (1, 4, 11, 12, 13, 20):
        yield data[:-cut]
    yield data + b"garbage"
    frame = struct.pack(">IIIIIHHBB", 0, 24, 16, 0, 0, 1, 1, 0, 0)
    for at, value in ((0, 1), (4, 23), (4, 25), (12, 1), (8, 0)):
        wrong = frame[:at] + struct.pack(">I", value) + frame[at + 4 :]
        yield header + png_chunk(b"fcTL", wrong) + body
    yield header + png_chunk(b"fcTL", frame) + body


def malformed_webps():
    """Chunks that are cut, doubled, of odd kinds and places; sizes that are wrong."""
    half = Image.merge("RGBA", (*TINY.split(), TINY.split()[0]))
    for data in (
        encode(TINY, "WEBP"),
        encode(TINY, "WEBP", lossless=True),
        encode(half, "WEBP"),
        encode(TINY, "WEBP", icc_profile=b"x" * 40, exif=b"Exif\0\0II*\0"),
    ):
        for at in [*range(34), *range(34, len(data), 23)]:
            yield data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]
            yield data[:at] + b"\xff" + data[at + 1 :]
        for size in (1, 2, 8, 30):
            yield data[:-size]
            shorter = struct.pack("<I", len(data) - 8 - size)
            yield data[:4] + shorter + data[8:-size]
            yield data + b"x" * size
            longer = struct.pack("<I", len(data) - 8 + size)
            yield data[:4] + longer + data[8:] + b"x" * size
        for name in (b"EXIF", b"ICCP", b"ALPH", b"VP8X", b"VP8 ", b"ANIM", b"ANMF"):
            more = name + struct.pack("<I", 6) + bytes(6)
            size = struct.pack("<I", len(data) - 8 + len(more))
            yield data[:4] + size + data[8:12] + more + data[12:]
            yield data[:4] + size + data[8:] + more


# Each loader may know more than the other, but what one refuses as damaged the other
# does not score: TensorFlow may refuse more, and what both read is the same.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [malformed_jpegs, malformed_pngs, malformed_webps])
def test_what_pillow_refuses_the_graph_refuses(make):
    read = refused = 0
    for number, data in enumerate(make()):
        try:
            expected = yahoo(data)
        except ImageError as error:
            refused += 1
            with pytest.raises(ImageError, match=""):
                graph(data)
                pytest.fail(f"{make.__name__}, {number}: read, but {error}")
            continue
        try:
            found = graph(data)
        except ImageError:
            continue
        read += 1
        assert np.array_equal(found, expected), (make.__name__, number)
    assert read > 50 and refused > 50


def test_metadata_that_is_whole_is_no_reason_to_refuse():
    profile = bytes(range(256)) * 8
    info = Image.Exif()
    info[0x11A], info[0x128], info[0x10E] = 72.0, 2, "words"
    for form in ("JPEG", "PNG", "WEBP"):
        data = encode(SMALL, form, exif=info, icc_profile=profile, dpi=(300, 300))
        np.testing.assert_array_equal(graph(data), yahoo(data))


def heic(image, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


def test_heic_is_decoded_outside_of_the_graph(tmp_path):
    data = heic(SMALL)
    np.testing.assert_array_equal(graph(data), yahoo(data))
    path = tmp_path / "photo.heic"
    path.write_bytes(data)
    with path.open("rb") as file:
        np.testing.assert_array_equal(graph(file), yahoo(path))
    path.write_bytes(data[:-20])
    with pytest.raises(ImageError, match=r"photo\.heic: corrupt picture"):
        graph(path)
    reason = "picture 0: a HEIC, HEIF or AVIF picture, which TensorFlow cannot decode"
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        traced(load_bytes_tensor)(tf.constant([data]))
