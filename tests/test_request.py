"""Bodies of requests for TF Serving and ML Engine, without a server."""

import base64
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from PIL import Image

from open_nsfw_tf import (
    ImageError,
    create_tensorflow_image_loader,
    create_yahoo_image_loader,
)
from open_nsfw_tf.export.request import (
    IMAGE_LOADERS,
    INPUT_TYPES,
    TARGETS,
    predict_request,
)

ROOT = Path(__file__).parent.parent
ROCKET = pictures.path("rocket.jpg")
SIGNATURES = {
    "tensor": "predict_images",
    "base64_jpeg": "predict_base64",
    "bytes": "predict_bytes",
}


def body(*arguments: Any, **options: Any) -> Any:
    text = predict_request(*arguments, **options)
    assert "\n" not in text
    return json.loads(text)


def test_tensor_is_exact() -> None:
    request = body(ROCKET, "tf-serving", "tensor")
    expected = create_yahoo_image_loader()(ROCKET)
    found = np.array(request["instances"])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    assert np.float32(found).tobytes() == expected.tobytes()


def test_numbers_are_written_as_floats() -> None:
    text = predict_request(np.zeros((2, 3, 3), np.uint8))
    assert '"instances": [[[[-104.0, -117.0, -123.0], [-104.0, ' in text


def test_files_are_sent_as_they_are() -> None:
    data = ROCKET.read_bytes()
    (instance,) = body(ROCKET, input_type="bytes")["instances"]
    assert list(instance) == ["b64"]
    assert base64.b64decode(instance["b64"], validate=True) == data
    (text,) = body(ROCKET, input_type="base64_jpeg")["instances"]
    assert base64.urlsafe_b64decode(text) == data
    assert not set(text) & set("+/\n")


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_targets(input_type: str) -> None:
    serving = body(ROCKET, "tf-serving", input_type)
    assert list(serving) == ["signature_name", "instances"]
    assert serving["signature_name"] == SIGNATURES[input_type]
    engine = body(ROCKET, "ml-engine", input_type)
    assert engine == {"inputs": serving["instances"][0]}


def test_a_signature_can_be_named() -> None:
    request = body(ROCKET, input_type="bytes", signature_name="serving_default")
    assert request["signature_name"] == "serving_default"
    with pytest.raises(ValueError, match="request for ml-engine has no signature"):
        predict_request(ROCKET, "ml-engine", signature_name="serving_default")


@pytest.mark.parametrize("target", TARGETS)
def test_loaders_write_the_same_body(target: str) -> None:
    bodies = {predict_request(ROCKET, target, "tensor", each) for each in IMAGE_LOADERS}
    assert len(bodies) == 1


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_sources_write_the_same_body(input_type: str) -> None:
    data = ROCKET.read_bytes()
    sources: list[Any] = [ROCKET, str(ROCKET), data, BytesIO(data)]
    bodies = {predict_request(s, "tf-serving", input_type) for s in sources}
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"target": "aws"}, "no target 'aws': choose one of tf-serving, ml-engine"),
        ({"input_type": "jpeg"}, "no input type 'jpeg': .* tensor, base64_jpeg, bytes"),
        ({"image_loader": "cv2"}, "no image loader 'cv2': .* yahoo, tensorflow"),
    ],
)
def test_unknown_choices_are_listed(options: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        predict_request(ROCKET, **options)


@pytest.mark.parametrize("input_type", INPUT_TYPES)
@pytest.mark.parametrize(
    "picture, reason",
    [
        ("no/such.jpg", "^no/such.jpg: No such file or directory$"),
        (b"", "^<0 bytes>: empty: expected a picture"),
        (ROOT, "expected a picture file, this is a directory$"),
        (3, "^<int>: expected a path, bytes, .* got int$"),
    ],
    ids=repr,
)
def test_bad_sources(picture: Any, reason: str, input_type: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        predict_request(picture, input_type=input_type)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image_loader", IMAGE_LOADERS)
def test_a_tensor_of_no_picture(image_loader: str) -> None:
    with pytest.raises(ImageError, match="<4 bytes>: not a"):
        predict_request(b"text", image_loader=image_loader)


def test_tensorflow_is_not_loaded() -> None:
    code = (
        "import sys; from open_nsfw_tf.export.request import predict_request\n"
        f"for kind in {INPUT_TYPES}: predict_request({str(ROCKET)!r}, "
        "input_type=kind)\n"
        "sys.exit(bool({'tensorflow', 'keras', 'onnxruntime'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def run(*command: Any, **options: Any) -> Any:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, check=False, **options
    )


SCRIPT = (sys.executable, ROOT / "tools" / "create_predict_request.py")
COMMAND = (Path(sys.executable).parent / "open-nsfw", "request")


@pytest.mark.parametrize("command", [SCRIPT, COMMAND], ids=["original", "open-nsfw"])
def test_commands(command: Any) -> None:
    flags = ["--input_type", "base64_jpeg", "--image_loader", "yahoo", "--target"]
    done = run(*command, *flags, "ml-engine", ROCKET)
    expected = predict_request(ROCKET, "ml-engine", "base64_jpeg")
    assert (done.stdout.decode(), done.stderr) == (expected + "\n", b"")
    short = ["-l", "yahoo", "-i", "tensor", "-t", "tf-serving", "-"]
    done = run(*command, *short, input=ROCKET.read_bytes())
    assert done.stdout.decode() == predict_request(ROCKET) + "\n"


def test_commands_refuse_in_one_line() -> None:
    done = run(*SCRIPT, "-t", "tf-serving", "no/such.jpg")
    assert done.returncode == 1
    assert done.stderr.decode() == "error: no/such.jpg: No such file or directory\n"
    for flags in (["-t", "aws"], ["-i", "gif", "-t", "ml-engine"], []):
        done = run(*SCRIPT, *flags, ROCKET)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr


def file_of(format: str, mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    image = pictures.sample("coffee.png").resize((40, 30)).convert(mode)
    image.save(file, format, **options)
    return file.getvalue()


REFUSED = {  # what Pillow reads and the exported networks do not
    "TIFF": file_of("TIFF"),
    "ICO": file_of("ICO"),
    "PPM": file_of("PPM"),
    "JPEG2000": file_of("JPEG2000"),
    "CMYK JPEG": file_of("JPEG", "CMYK"),
    "palette BMP": file_of("BMP", "P"),
    "GIF with transparency": file_of("GIF", "P", transparency=0),
}
SENT = {
    "JPEG": file_of("JPEG"),
    "gray JPEG": file_of("JPEG", "L"),
    "progressive JPEG": file_of("JPEG", progressive=True),
    "PNG": file_of("PNG", "RGBA"),
    "palette PNG": file_of("PNG", "P"),
    "bits": file_of("PNG", "1"),
    "WebP": file_of("WEBP"),
    "GIF": file_of("GIF"),
    "BMP": file_of("BMP"),
}


def wide() -> bytes:
    file = BytesIO()
    Image.new("L", (131_073, 1)).save(file, "PNG")
    return file.getvalue()


REFUSED["wide PNG"] = wide()


@pytest.mark.parametrize("input_type", ["bytes", "base64_jpeg"])
@pytest.mark.parametrize("name", REFUSED)
def test_files_that_a_server_refuses_are_not_sent(name: str, input_type: str) -> None:
    with pytest.raises(ImageError, match=r"^<\d+ bytes>: .* \(-i tensor\)$") as caught:
        predict_request(REFUSED[name], input_type=input_type)
    assert "\n" not in str(caught.value)
    assert body(REFUSED[name], input_type="tensor")["instances"]
    with pytest.raises(
        ImageError, match=r"^<\d+ bytes>: (an? |not a |too large)"
    ):  # as the server, which has the same loader
        create_tensorflow_image_loader()(REFUSED[name])


@pytest.mark.parametrize("name", SENT)
def test_files_that_a_server_reads_are_sent(name: str) -> None:
    (instance,) = body(SENT[name], input_type="bytes")["instances"]
    assert base64.b64decode(instance["b64"]) == SENT[name]
    create_tensorflow_image_loader()(SENT[name])
