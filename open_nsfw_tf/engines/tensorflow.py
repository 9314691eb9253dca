"""TensorFlow: `OpenNsfwModel` with folded weights behind one compiled function."""

from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.model import OpenNsfwModel, compile_network
from open_nsfw_tf.weights import load_weights


class Engine:
    """The network as one frozen TensorFlow function on the CPU, float32.

    Largest difference from Caffe's scores over 103 pictures: 1.5e-6.
    """

    def __init__(
        self,
        weights: Weights | Path,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            _set_threads(threads)
        loaded = load_weights(weights) if isinstance(weights, Path) else weights
        model = OpenNsfwModel()
        model.build_from(loaded, fold=True)
        self.model = model  # the variables live as long as it does
        self.function = compile_network(model.keras_model)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, 2), of a batch, float32 (N, 224, 224, 3)."""
        tf = import_tensorflow()
        return np.asarray(self.function(tf.constant(batch)).numpy(), dtype=np.float32)


def _set_threads(threads: int) -> None:
    """Set TensorFlow's threads, which are the whole process's and set once."""
    tf = import_tensorflow()
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ValueError(
            f"threads={threads} came too late: TensorFlow already runs in this process; "
            "make this engine first"
        ) from error
