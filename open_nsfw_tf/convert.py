"""Weights from any layout to any other, with the proof that they are the same."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import (
    CHANNELS,
    LAYERS,
    Weights,
    WeightsError,
    check_weights,
    classes_of,
)
from open_nsfw_tf.backbones.trained import ARRAYS as ARRAYS_FILE
from open_nsfw_tf.backbones.trained import OPEN_NSFW, is_trained, read_trained
from open_nsfw_tf.backend import open_session
from open_nsfw_tf.folding import fold_batch_norm, is_folded, unfold_batch_norm
from open_nsfw_tf.formats import (
    FORMATS,
    detect,
    module,
    reading,
    remarks,
    replacing,
)
from open_nsfw_tf.formats.prototxt import prototxt
from open_nsfw_tf.image import Picture, yahoo_tensor
from open_nsfw_tf.messages import shown
from open_nsfw_tf.published import PUBLISHED, git_blob, sha256
from open_nsfw_tf.samples import sample_pictures
from open_nsfw_tf.weights import find_weights, format_of

ARRAYS = 0.0  # the largest difference of an array: all formats here keep float32
SCORES = 5e-6  # the largest difference of a score
FOLDED_SCORES = 1e-5  # where batch norms were folded on the way
HALF = "float16 arrays were converted to float32"
HALF_SCORES = 1e-3  # from a file that computes in float16
COMPARED = 8  # pictures, where the user names none
FOLDING = ("onnx",)  # formats that have no batch norms of their own


@dataclass(frozen=True)
class Conversion:
    """A conversion that was proved.

    Attributes:
        path: of what was written.
        source: the format read, a key of `FORMATS`.
        target: the format written.
        weights: what was read, the canonical dict.
        array_difference: the largest one between what was to be written and what the
            file gave back.
        score_difference: the largest one of an NSFW score between the two files.
        compared: how many pictures were scored.
        network: the deploy.prototxt beside a caffemodel; None for other formats.
        said: what had to be changed on the way, a line each.
    """

    path: Path
    source: str
    target: str
    weights: Weights
    array_difference: float
    score_difference: float
    compared: int
    network: Path | None
    said: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    source_format: str | None = None,
    target_format: str | None = None,
    pictures: Iterable[Picture] = (),
    unfold: int | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a file of weights, read the result back, and compare the two.

    Args:
        source: a file of weights, of any number of classes; or the folder of a trained
            model of Yahoo's network.
        destination: the file to write.
        source_format: a key of `FORMATS`; None tells it by content, then by suffix.
        target_format: a key of `FORMATS`; None goes by the destination's suffix.
        pictures: to score with both files; none: installed samples and generated ones.
        unfold: give the convolutions batch norms of random statistics from this seed,
            which they make up for: to test other software with batch norms that are
            not the identity. None leaves the weights as they are.
        overwrite: whether an existing destination is replaced.

    Returns:
        What was written, and how near it is.

    Raises:
        WeightsError: the source cannot be read, is another network, or the result
            differs; nothing is left at the destination.
        FileExistsError: the destination exists.
        OSError, ImageError: as they say.
    """
    found, target = _file_of(source), Path(destination)
    source_format = source_format or detect(found)
    target_format = target_format or format_of(target)
    network = target.with_suffix(".prototxt") if target_format == "caffemodel" else None
    for path in filter(None, (target, network)):
        _check_free(path, overwrite)
    with remarks() as said:
        read = _read(found, source_format)
        weights = read if unfold is None else unfold_batch_norm(read, unfold)
        if unfold is not None:
            said.append(f"batch norms were unfolded with random statistics, {unfold}")
        if target_format in FOLDING and not is_folded(weights):
            said.append("batch norms were folded into the convolutions")
    named = list(pictures) or sample_pictures(COMPARED)
    batch = np.stack([yahoo_tensor(picture) for picture in named])
    with _beside(target) as temporary:
        module(target_format).write(temporary, weights)
        back = _read(temporary, target_format)
        arrays = _array_difference(weights, back)
        one = _scores(found, source_format, read, batch)
        other = _scores(temporary, target_format, back, batch)
        scores = float(np.abs(one - other).max())
        bound = SCORES if is_folded(read) == is_folded(back) else FOLDED_SCORES
        if HALF in said:  # the source computes in float16 what we do in float32
            bound = HALF_SCORES
        if arrays > ARRAYS or not scores <= bound:
            raise WeightsError(
                f"{shown(target)}: what was written differs when it is read back: arrays "
                f"by {arrays:.2g}, scores by {scores:.2g}; nothing was kept"
            )
        temporary.replace(target)
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
        said=tuple(said),
    )


def _file_of(source: str | os.PathLike[str]) -> Path:
    """The file of weights that is meant: of a trained model its arrays."""
    if not is_trained(source):
        return find_weights(source)
    model = read_trained(source)
    if not model.is_open_nsfw:
        raise WeightsError(
            f"{shown(os.fspath(source))}: expected a model of {OPEN_NSFW} with Yahoo's "
            "preprocessing and without layers before the last one, which alone these "
            f"formats hold; got one of {shown(model.backbone)}: see `open-nsfw export`"
        )
    return Path(source) / ARRAYS_FILE


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{shown(path)} is a folder: name a file")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(
            f"{shown(path)} exists: name another file, or --overwrite"
        )


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
    except OSError as error:
        if not isinstance(error, FileExistsError):
            error.filename, error.filename2 = str(target), None  # not a hidden name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, format: str) -> Weights:
    weights = module(format).read(path)
    with reading(path, "file"):
        check_weights(weights)
        fold_batch_norm(weights)  # raises where products are not finite
    return weights


def _array_difference(weights: Weights, back: Weights) -> float:
    expected = weights
    if is_folded(back) and not is_folded(weights):
        expected = fold_batch_norm(weights)
    return max(
        float(np.abs(array - back[layer][field]).max())
        for layer, fields in expected.items()
        for field, array in fields.items()
    )


def _scores(path: Path, format: str, weights: Weights, batch: np.ndarray) -> np.ndarray:
    """What a file answers: an ONNX graph by itself, other files in our network."""
    from open_nsfw_tf import engines

    if format != "onnx":
        return engines.create("onnxruntime", weights)(batch)
    # Its reader has held every node of it against the network before.
    session = open_session(path.read_bytes())
    taken = session.get_inputs()[0]
    inputs = batch if taken.shape[-1] == CHANNELS else batch.transpose(0, 3, 1, 2)
    rows = [
        session.run(None, {taken.name: np.ascontiguousarray(inputs[i : i + 1])})[0]
        for i in range(len(inputs))
    ]
    return np.concatenate(rows).astype(np.float32)


# -- inspection


@dataclass(frozen=True)
class Inspection:
    """What can be said of a file of weights.

    Attributes:
        path: of the file.
        format: a key of `FORMATS`.
        sha256: of the file, hexadecimal.
        git_blob: git's name of its content.
        published: which published copy it is, a key of `PUBLISHED`; None: none of them.
        weights: its layers, as they were read.
        complaint: why they do not fit the network; "" where they do.
        parameters: how many numbers it holds.
        folded: whether its batch norms are folded into the convolutions.
        difference: the first difference from the reference weights, in words.
        said: what had to be changed while reading, a line each.
    """

    path: Path
    format: str
    sha256: str
    git_blob: str
    published: str | None
    weights: Weights
    complaint: str
    parameters: int
    folded: bool
    difference: str
    said: tuple[str, ...]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Describe a file of weights, also one of another network.

    Raises:
        WeightsError: there is no such file, or no reader can make sense of it.
        OSError: it cannot be read.
    """
    found = find_weights(path)
    format = detect(found)
    digests = sha256(found), git_blob(found)
    copies = (
        name for name, c in PUBLISHED.items() if {c.sha256, c.git_blob} & {*digests}
    )
    with remarks() as said, reading(found, "file", OSError):
        weights = module(format).read(found)
    complaint, folded, difference = "", False, ""
    try:
        check_weights(weights)
        difference = _from_reference(fold_batch_norm(weights))
        folded = is_folded(weights)
    except WeightsError as error:
        complaint = str(error)
    arrays = [array for fields in weights.values() for array in fields.values()]
    return Inspection(
        found,
        format,
        *digests,
        next(copies, None),
        weights,
        complaint,
        sum(array.size for array in arrays),
        folded,
        difference,
        tuple(said),
    )


def _from_reference(folded: Weights) -> str:
    """How folded weights differ from those that are found without a name."""
    try:
        place = find_weights(download=False)
        reference = fold_batch_norm(_read(place, detect(place)))
    except WeightsError:
        return "no reference weights are installed to compare with"
    for layer, shapes in LAYERS.items():
        for field in shapes:
            if folded[layer][field].shape != reference[layer][field].shape:
                return f"{layer}.{field}: other classes than those from {place}"
            differences = np.abs(folded[layer][field] - reference[layer][field])
            if differences.max() > 0:
                at = np.unravel_index(int(differences.argmax()), differences.shape)
                where = ", ".join(map(str, at))
                return (
                    f"first in {layer}.{field}: by up to {differences.max():.3g}, at "
                    f"[{where}], from {place}"
                )
    return f"none from {place}"


TITLES = {name: known.title for name, known in FORMATS.items()}
