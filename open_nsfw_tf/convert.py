"""Conversion of weights between formats, with a proof that nothing has changed."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from open_nsfw_tf import CallableModule, engines
from open_nsfw_tf.architecture import (
    DENSE,
    LAYERS,
    Weights,
    check_weights,
    classes_of,
    fold_batch_norm,
    is_folded,
    unfold_batch_norm,
)
from open_nsfw_tf.backbones import nsfwjs
from open_nsfw_tf.backbones.layers_model import trained_model
from open_nsfw_tf.backbones.trained import ARRAYS as ARRAYS_FILE
from open_nsfw_tf.backbones.trained import (
    MODEL,
    OPEN_NSFW,
    check_classes,
    is_trained,
    read_trained,
    write_trained,
)
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.files import (
    beside,
    check_free,
    made_folder,
    refuse_existing,
    rename_over,
    replacing,
)
from open_nsfw_tf.formats import (
    FORMATS,
    collect_notes,
    detect,
    git_blob,
    module,
    onnx,
    reading,
    sha256,
    tfjs,
)
from open_nsfw_tf.formats.caffemodel import prototxt
from open_nsfw_tf.image import Picture, tensor
from open_nsfw_tf.quantize.samples import readable_pictures, sample_pictures
from open_nsfw_tf.weights import TIMEOUT, find_weights, format_of, published_name

ARRAYS = 0.0  # the largest difference of an array: all formats here keep float32
SCORES = 5e-6  # the largest difference of a score
FOLDED_SCORES = 1e-5  # if batch norms were folded
HALF = "float16 arrays were converted to float32"
HALF_SCORES = 1e-3  # from a file that computes in float16
COMPARED = 8  # pictures, if the user names none
FOLDING = ("onnx",)  # formats that have no batch norms of their own


TITLES = {name: known.title for name, known in FORMATS.items()}
TITLES |= {"tfjs": tfjs.TITLE, "run": "trained model"}


@dataclass(frozen=True)
class Conversion:
    """A conversion whose result was read back and compared.

    Attributes:
        path: of the file or folder that was written.
        source: the format read, a key of `TITLES`.
        target: the format written.
        weights: the weights that were written, the canonical dict.
        array_difference: the largest difference between the arrays to be written and
            those read back from the file.
        score_difference: the largest difference of a score between the two files.
        compared: how many pictures were scored.
        network: the deploy.prototxt beside a caffemodel; None for other formats.
        notes: what the conversion changed, one line each.
    """

    path: Path
    source: str
    target: str
    weights: Weights
    array_difference: float
    score_difference: float
    compared: int
    network: Path | None
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    source_format: str | None = None,
    target_format: str | None = None,
    pictures: Iterable[Picture] = (),
    unfold: int | None = None,
    overwrite: bool = False,
    classes: Sequence[str] | None = None,
) -> Conversion:
    """Convert a weights file, read the result back, and compare the two.

    Args:
        source: a weights file, of any number of classes; or the folder of a trained
            model of Yahoo's network; or that of a TensorFlow.js layers model.
        destination: the file to write; of a layers model the folder of a trained model.
        source_format: a key of `FORMATS`; None: by content, then by suffix.
        target_format: a key of `FORMATS`; None: by the destination's suffix.
        pictures: to score with both files; none: installed samples and generated ones.
        unfold: a seed. The convolutions get batch norms of random statistics, and are
            changed to compensate for them: to test other software with batch norms that
            are not the identity. None leaves the weights as they are.
        overwrite: whether an existing destination is replaced.
        classes: of a layers model, in the order of its scores; None: nsfwjs's five.

    Returns:
        What was written, and the differences.

    Raises:
        WeightsError: the source cannot be read, is another network, or the result
            differs; nothing is left at the destination.
        FileExistsError: the destination exists.
        OSError: a file cannot be read or written.
        ImageError: none of the pictures can be read.
    """
    if tfjs.is_layers_model(source):
        if source_format or target_format or unfold is not None:
            raise ValueError(
                f"a {tfjs.TITLE} becomes a trained model: leave formats and unfold out"
            )
        return _convert_layers_model(
            Path(source), Path(destination), pictures, overwrite, classes
        )
    if classes is not None:
        raise ValueError(f"only a {tfjs.TITLE} needs the names of its classes")
    found, target = _file_of(source), Path(destination)
    formats = source_format or detect(found), target_format or format_of(target)
    return _convert_file(found, target, formats, pictures, unfold, overwrite)


def _convert_file(
    found: Path,
    target: Path,
    formats: tuple[str, str],
    pictures: Iterable[Picture],
    unfold: int | None,
    overwrite: bool,
) -> Conversion:
    """Write a weights file in another format, and compare what is read back."""
    source_format, target_format = formats
    network = target.with_suffix(".prototxt") if target_format == "caffemodel" else None
    for path in filter(None, (target, network)):
        _check_free(path, overwrite)
    with collect_notes() as notes:
        read = _read(found, source_format)
        weights = read if unfold is None else unfold_batch_norm(read, unfold)
        if unfold is not None:
            notes.append(f"batch norms were unfolded with random statistics, {unfold}")
        if target_format in FOLDING and not is_folded(weights):
            notes.append("batch norms were folded into the convolutions")
    images, left_out = readable_pictures(pictures)
    notes += left_out
    named = images or sample_pictures(COMPARED)
    batch = np.stack([tensor(picture) for picture in named])
    with replacing(target) as temporary:
        module(target_format).write(temporary, weights)
        reread = _read(temporary, target_format)
        arrays = _array_difference(weights, reread)
        expected = _scores(found, source_format, read, batch)
        actual = _scores(temporary, target_format, reread, batch)
        bound = SCORES if is_folded(read) == is_folded(reread) else FOLDED_SCORES
        if HALF in notes:  # the source computes in float16 what we do in float32
            bound = HALF_SCORES
        scores = _score_difference(target, arrays, expected - actual, bound)
        if network:
            with replacing(network) as unfinished:
                unfinished.write_text(prototxt(classes_of(weights)), encoding="utf-8")
    return Conversion(
        path=target,
        source=source_format,
        target=target_format,
        weights=weights,
        array_difference=arrays,
        score_difference=scores,
        compared=len(named),
        network=network,
        notes=tuple(notes),
    )


def _score_difference(
    target: Path, arrays: float, differences: np.ndarray, bound: float
) -> float:
    """The largest difference of a score, if it and that of the arrays are allowed."""
    scores = float(np.abs(differences).max())
    if arrays > ARRAYS or not scores <= bound:
        raise WeightsError(
            f"{sanitize(target)}: what was written differs when it is read back: "
            f"arrays by {arrays:.2g}, scores by {scores:.2g}; nothing was kept"
        )
    return scores


def _file_of(source: str | os.PathLike[str]) -> Path:
    """The weights file of a source; that of a trained model is in its folder."""
    if not is_trained(source):
        return find_weights(source)
    model = read_trained(source)
    if not model.is_open_nsfw:
        raise WeightsError(
            f"{sanitize(os.fspath(source))}: expected a model of {OPEN_NSFW} with "
            "Yahoo's preprocessing and without layers before the last one, which alone "
            f"these formats hold; got one of {sanitize(model.backbone)}: see "
            "`open-nsfw export`"
        )
    return Path(source) / ARRAYS_FILE


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{sanitize(path)} is a folder: name a file")
    refuse_existing(path, overwrite)


def _read(path: Path, format: str) -> Weights:
    weights = module(format).read(path)
    with reading(path, "file"):
        check_weights(weights)
        fold_batch_norm(weights)  # raises if the folded weights are not finite
    return weights


def _array_difference(weights: Weights, back: Weights) -> float:
    expected = weights
    if DENSE in weights and is_folded(back) and not is_folded(weights):
        expected = fold_batch_norm(weights)
    return max(
        float(np.abs(array - back[layer][field]).max())
        for layer, fields in expected.items()
        for field, array in fields.items()
    )


def _scores(path: Path, format: str, weights: Weights, batch: np.ndarray) -> np.ndarray:
    """The scores of a file: by an ONNX file's graph, or by our network with weights."""
    if format == "onnx":
        return onnx.scores(path, batch)
    return engines.create("onnxruntime", weights)(batch)


# -- models of TensorFlow.js


def fetch_model(
    name: str,
    folder: str | os.PathLike[str],
    url: str | None = None,
    timeout: float = TIMEOUT,
) -> Conversion:
    """Download a network of nsfwjs, and make a trained model of it.

    Args:
        name: a key of `open_nsfw_tf.backbones.nsfwjs.NETWORKS`.
        folder: of the trained model, which does not exist yet.
        url: of a mirror of upstream's folder of the network.
        timeout: seconds without an answer before giving up.

    Raises:
        WeightsError: it cannot be downloaded, or is damaged; nothing is left.
        FileExistsError: the folder exists.
        OSError: it cannot be written.
    """
    if name not in nsfwjs.NETWORKS:
        known = ", ".join(nsfwjs.NETWORKS)
        raise WeightsError(f"no model is called {name!r:.80}: choose of {known}")
    check_free(Path(folder), False, MODEL)
    with TemporaryDirectory(prefix="open_nsfw_tf-") as temporary:
        nsfwjs.fetch(name, temporary, url, timeout)
        return convert(temporary, folder)


def _convert_layers_model(
    source: Path,
    target: Path,
    pictures: Iterable[Picture],
    overwrite: bool,
    classes: Sequence[str] | None,
) -> Conversion:
    """Write a layers model as a trained one, and compare what is read back."""
    if target.name.lower().endswith(
        tuple(s for f in FORMATS.values() for s in f.suffixes)
    ):
        raise WeightsError(
            f"{sanitize(target)}: expected a folder for a trained model, as weights "
            "files hold only Yahoo's network"
        )
    check_free(target, overwrite, MODEL)
    found = tfjs.read(source)
    with reading(source, tfjs.TITLE):
        origin = nsfwjs.origin_of(found)
        trained = trained_model(found, _classes(classes), origin)
    named, notes = readable_pictures(pictures)
    if classes is None and "licence" not in origin:
        notes.append("the file does not name its classes: nsfwjs's five were taken")
    images = named or sample_pictures(COMPARED)
    batch = np.stack([tensor(each, trained.preprocessing) for each in images])
    with made_folder(target.parent), beside(target) as temporary:
        temporary.mkdir()
        write_trained(temporary, trained)
        reread = read_trained(temporary)
        arrays = _array_difference(trained.weights, reread.weights)
        expected, actual = (
            engines.create("onnxruntime", model)(batch) for model in (trained, reread)
        )
        scores = _score_difference(target, arrays, expected - actual, SCORES)
        rename_over(temporary, target)
    return Conversion(
        path=target,
        source="tfjs",
        target="run",
        weights=trained.weights,
        array_difference=arrays,
        score_difference=scores,
        compared=len(images),
        network=None,
        notes=tuple(notes),
    )


def _classes(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return nsfwjs.CLASSES
    check_classes(names)
    return tuple(names)


# -- inspection


@dataclass(frozen=True)
class Inspection:
    """The description of a weights file.

    Attributes:
        path: of the file.
        format: a key of `FORMATS`.
        sha256: of the file, hexadecimal.
        git_blob: git's name of its content.
        published: the published copy that it is, a key of `PUBLISHED`; None: none.
        weights: its layers, as they were read.
        mismatch: why they do not fit the network; "" if they do.
        parameters: how many numbers it holds.
        folded: whether its batch norms are folded into the convolutions.
        difference: the first difference from the reference weights, in words.
        notes: what was changed while reading, one line each.
    """

    path: Path
    format: str
    sha256: str
    git_blob: str
    published: str | None
    weights: Weights
    mismatch: str
    parameters: int
    folded: bool
    difference: str
    notes: tuple[str, ...]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Describe a weights file, also one of another network.

    Raises:
        WeightsError: there is no such file, or no reader can read it.
        OSError: it cannot be read.
    """
    found = find_weights(path)
    format = detect(found)
    digests = sha256(found), git_blob(found)
    with collect_notes() as notes, reading(found, "file", OSError):
        weights = module(format).read(found)
    mismatch, folded, difference = "", False, ""
    try:
        check_weights(weights)
        difference = _from_reference(fold_batch_norm(weights))
        folded = is_folded(weights)
    except WeightsError as error:
        mismatch = str(error)
    arrays = [array for fields in weights.values() for array in fields.values()]
    return Inspection(
        found,
        format,
        *digests,
        published_name(*digests),
        weights,
        mismatch,
        sum(array.size for array in arrays),
        folded,
        difference,
        tuple(notes),
    )


def _from_reference(folded: Weights) -> str:
    """How folded weights differ from those that `find_weights` finds without a path."""
    try:
        location = find_weights(download=False)
        reference = fold_batch_norm(_read(location, detect(location)))
    except WeightsError:
        return "no reference weights are installed to compare with"
    for layer, shapes in LAYERS.items():
        for field in shapes:
            if folded[layer][field].shape != reference[layer][field].shape:
                return f"{layer}.{field}: other classes than those from {location}"
            differences = np.abs(folded[layer][field] - reference[layer][field])
            if differences.max() > 0:
                at = np.unravel_index(int(differences.argmax()), differences.shape)
                where = ", ".join(map(str, at))
                return (
                    f"first in {layer}.{field}: by up to {differences.max():.3g}, at "
                    f"[{where}], from {location}"
                )
    return f"none from {location}"


sys.modules[__name__].__class__ = CallableModule
