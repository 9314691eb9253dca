"""`open-nsfw classify`, and `classify_nsfw.py` with the flags of the first port."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.cli.app import (
    DeviceOption,
    EngineOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
    app,
    choice,
    standard_input,
)
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import (
    MAX_PIXELS,
    Picture,
    create_yahoo_image_loader,
    describe,
    read_file,
)
from open_nsfw_tf.model import InputType
from open_nsfw_tf.request import LOADERS
from open_nsfw_tf.tf_image import (
    create_tensorflow_image_loader,
    error_reason,
    load_base64_tensor,
)

STDIN = "-"
INPUT_TYPES = (InputType.TENSOR.value, InputType.BASE64_JPEG.value)

original = typer.Typer(
    name="classify_nsfw.py", add_completion=False, pretty_exceptions_enable=False
)


@app.command()
def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Picture files; - reads one from standard input."
        ),
    ],
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line: path, sfw, nsfw, error (and label)."
        ),
    ] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "float32",
    device: DeviceOption = None,
    weights: WeightsOption = None,
    model: ModelOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Say nsfw at this NSFW score and above, sfw below it. Yahoo gives no "
            "threshold: choose it on your own pictures.",
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse larger pictures.")
    ] = MAX_PIXELS,
) -> None:
    """Score pictures: the probability, 0 to 1, that each one is pornographic.

    With --model the probability of each of the model's classes. A picture that cannot be
    read is a line with its error; the others are scored all the same, and the exit
    status is 1.
    """
    from open_nsfw_tf.classifier import Classifier

    classifier = Classifier(
        engine, weights, precision, max_pixels=max_pixels, device=device, model=model
    )
    classes = classifier.classes
    if threshold is not None and "nsfw" not in classes:
        raise ValueError(
            f"--threshold is of a class nsfw: this model has {', '.join(classes)}"
        )
    pictures = [standard_input() if path == STDIN else path for path in images]
    results = classifier.classify_many(pictures, errors="yield")
    failed = False
    for path, result in zip(images, results, strict=True):
        row: dict[str, Any] = {"path": path, **dict.fromkeys(classes), "error": None}
        if isinstance(result, ImageError):
            failed = True
            row["error"] = str(result)
        else:
            row.update(zip(classes, result, strict=True))
            if threshold is not None:
                row["label"] = "nsfw" if row["nsfw"] >= threshold else "sfw"
        line = json.dumps(row, allow_nan=False) if json_lines else _line(row, classes)
        print(line, flush=True)
    if failed:
        raise typer.Exit(1)


def _line(row: dict[str, Any], classes: Sequence[str]) -> str:
    """NSFW first, where it is one of two; the likeliest first of other classes."""
    if row["error"]:
        return f"error: {row['error']}"
    label = f"  {row['label']}" if "label" in row else ""
    names = sorted(classes, key=lambda name: -row[name])
    if tuple(classes) == LABELS:
        names = list(reversed(LABELS))
    scores = "  ".join(f"{sanitize(name)} {row[name]:.6f}" for name in names)
    return f"{scores}{label}  {describe(row['path'])}"


@original.command()
def classify_original(
    input_file: Annotated[
        str, typer.Argument(help="Path of the picture; - reads standard input.")
    ],
    model_weights: Annotated[
        Path | None,
        typer.Option(
            "--model_weights",
            "-m",
            help="Path of the trained weights, in any known format. Without it they "
            "are looked for: see `open-nsfw weights list`.",
        ),
    ] = None,
    image_loader: Annotated[
        str,
        choice(
            LOADERS,
            "--image_loader",
            "-l",
            help="What prepares the picture: Pillow, or the same in TensorFlow ops. "
            "The score is the same.",
        ),
    ] = "yahoo",
    input_type: Annotated[
        str,
        choice(
            INPUT_TYPES,
            "--input_type",
            "-i",
            help="What the network takes: the prepared picture, or its file as base64 "
            "text, which it prepares itself by TensorFlow ops whatever -l says. The "
            "score is the same.",
        ),
    ] = "tensor",
) -> None:
    """Score one picture with Yahoo's Open-NSFW, with the flags of the first port."""
    from open_nsfw_tf.classifier import Classifier

    picture = standard_input() if input_file == STDIN else input_file
    load = create_yahoo_image_loader()
    if input_type == "base64_jpeg":
        load = _load_base64
    elif image_loader == "tensorflow":
        load = create_tensorflow_image_loader()
    batch = load(picture)  # before the weights: a bad picture costs no time
    sfw, nsfw = Classifier(weights=model_weights).predict(batch)[0].tolist()
    print(f"Results for '{describe(input_file)}'")
    print(f"\tSFW score:\t{sfw}\n\tNSFW score:\t{nsfw}")


def _load_base64(picture: Picture) -> np.ndarray:
    """The batch of one that the network makes of a picture file's base64 text."""
    tf = import_tensorflow()
    text = base64.urlsafe_b64encode(read_file(picture))
    try:
        batch: np.ndarray = load_base64_tensor(tf.constant([text])).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{describe(picture)}: {error_reason(error)}") from error
    return batch
