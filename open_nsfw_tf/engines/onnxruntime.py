"""ONNX Runtime: the default engine. Exact, and ready in a fraction of a second.

The graph is built once from the weights, and kept in the user's cache under the
weights' SHA-256, so that later runs read neither the weights' format nor onnx.
"""

import hashlib
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights, WeightsError
from open_nsfw_tf.backend import import_onnxruntime
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.published import cache_folder, sha256
from open_nsfw_tf.weights import load_weights

MAX_GRAPHS = 4  # kept, of 24 MB each
GRAPH_VERSION = 2  # raise it when `formats.onnx_graph.graph` builds another graph


class Engine:
    """The network in an ONNX Runtime session on the CPU, float32.

    Largest difference from Caffe's scores over 103 pictures: 7.6e-7.
    """

    def __init__(
        self,
        weights: Weights | Path,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads or 0
        graph = _graph(weights)
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, 2), of a batch, float32 (N, 224, 224, 3)."""
        scores = self.session.run(None, {self.input: batch})[0]
        return np.asarray(scores, dtype=np.float32)


def _graph(weights: Weights | Path) -> bytes:
    if isinstance(weights, dict):
        return _build(weights)
    try:
        digest = sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: {error.strerror or error}") from error
    path = cache_folder() / "graphs" / f"{digest}-{GRAPH_VERSION}.onnx"
    graph = _cached(path)
    if graph is None:
        graph = _build(load_weights(weights))
        _keep(path, graph)
    return graph


def _build(weights: Weights) -> bytes:
    from open_nsfw_tf.formats.onnx_graph import graph

    serialized: bytes = graph(weights).SerializeToString(deterministic=True)
    return serialized


def _cached(path: Path) -> bytes | None:
    """A graph whose last 32 bytes, its own checksum, fit."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    graph, digest = data[:-32], data[-32:]
    return graph if hashlib.sha256(graph).digest() == digest else None


def _keep(path: Path, graph: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(graph + hashlib.sha256(graph).digest())
        kept = sorted(path.parent.glob("*.onnx"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-MAX_GRAPHS]:
            old.unlink()
    except OSError:
        return  # no cache on a read-only or full disk: only slower next time
