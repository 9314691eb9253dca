"""The data of one export, and the pictures to compare and calibrate with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
from PIL import Image

from open_nsfw_tf import engines
from open_nsfw_tf.architecture import CHANNELS, LABELS, Weights
from open_nsfw_tf.backbones.trained import OPEN_NSFW, TrainedModel
from open_nsfw_tf.formats.onnx_graph import metadata
from open_nsfw_tf.image import YAHOO, Picture, Preprocessing, load_rgb, tensor
from open_nsfw_tf.quantize import sample_batch
from open_nsfw_tf.quantize.samples import readable_pictures, sample_pictures

COMPARED = 8  # pictures, if the user names none
PICTURE = "picture"  # the input type of decoded pictures of any size
MIN_CALIBRATED = 32  # pictures; to fewer, samples are added
MAX_CALIBRATED = 64  # pictures; each takes about 10 MB of memory


@dataclass
class Job:
    """The data of one export, which the modules of the formats get.

    Attributes:
        weights: the canonical dict, or the arrays of a trained model of another
            network.
        precision: of the computation.
        input_type: of the network: ``tensor``, ``base64_jpeg``, ``bytes`` or
            ``picture``.
        layout: ``nhwc`` or ``nchw``, of the ONNX input.
        version: of the SavedModel.
        text: whether graphs are written as text.
        freeze: whether the frozen graph is written.
        optimize: whether the optimised graph is written.
        pictures: to compare and to calibrate with, RGB.
        batch: the same, preprocessed: float32 (N, 224, 224, 3), BGR minus the mean.
        calibration: the batch that int8 is calibrated with, of the same form.
        notes: for the user, one line each.
        trained: the model whose weights these are; None: Yahoo's.
    """

    weights: Weights
    precision: str = "float32"
    input_type: str = "tensor"
    layout: str = "nhwc"
    version: int = 1
    text: bool = False
    freeze: bool = True
    optimize: bool = True
    pictures: list[Image.Image] = field(default_factory=list)
    batch: np.ndarray = field(default_factory=lambda: np.empty((0, 224, 224, 3)))
    calibration: np.ndarray = field(default_factory=lambda: np.empty((0, 224, 224, 3)))
    notes: list[str] = field(default_factory=list)
    trained: TrainedModel | None = None

    @property
    def model(self) -> TrainedModel:
        """The model: the trained one, or Yahoo's with these weights."""
        yahoo = TrainedModel(OPEN_NSFW, LABELS, YAHOO, (), self.weights)
        return self.trained or yahoo

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the scores, in order."""
        return self.model.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The steps from a picture to the network's input."""
        return self.model.preprocessing

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata for users of the file without this package."""
        backbone = None if self.model.is_open_nsfw else self.model.backbone
        found = metadata(len(self.labels), self.labels, self.preprocessing, backbone)
        origin = self.model.origin
        return found | {n: origin[n] for n in ("licence", "source") if n in origin}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the network's input for one picture."""
        return (self.preprocessing.crop, self.preprocessing.crop, CHANNELS)


def take_pictures(job: Job, pictures: Iterable[Picture]) -> None:
    """Set the pictures of a job, to compare and to calibrate with.

    Pictures that cannot be read are left out, with a note.

    Raises:
        ImageError: some are named, and none can be read.
    """
    named, notes = readable_pictures(pictures)
    job.notes += notes
    job.pictures = named or [load_rgb(each) for each in sample_pictures(COMPARED)]
    job.batch = np.stack([tensor(p, job.preprocessing) for p in job.pictures])
    if job.precision != "int8":
        return
    # Evenly spread over the pictures: the first ones of a folder may be all of one
    # kind.
    count = min(len(named), MAX_CALIBRATED)
    job.calibration = job.batch[np.arange(count) * len(named) // max(count, 1)]
    if len(named) < MIN_CALIBRATED:
        job.notes.append(
            f"int8 was calibrated on {'few pictures and ' if named else ''}samples: "
            f"name {MIN_CALIBRATED} pictures of your own kind or more with --pictures "
            "for scores that fit them"
        )
        job.calibration = np.concatenate([job.calibration, sample_batch()])


def expected_scores(job: Job, engine: str) -> np.ndarray:
    """The model's own scores, by an engine.

    Without TensorFlow they are ONNX Runtime's, also for the ONNX files that it runs.
    """
    if engine == "tensorflow" and find_spec("tensorflow") is None:
        engine = "onnxruntime"
    # Of Yahoo's weights as they are, no network is cached.
    return engines.create(engine, job.trained or job.weights)(job.batch)
