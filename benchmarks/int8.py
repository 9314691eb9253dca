"""What int8 costs on photographs that took no part in its calibration, step by step.

python -m benchmarks.int8 [--folds 2] [--held-out FOLDER] [--networks 16] [--json FILE]

The installed photographs are split: each part is scored by networks that were
calibrated on the others. `--held-out` adds photographs of your own, scored by networks
calibrated on all installed ones. Beside our quantisation stand the same without one of
its steps, and ONNX Runtime's own static quantisation. One network's largest change is
half luck, so each of our figures is a mean over `--networks` whose ranges differ by up
to 15 %.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx

from benchmarks.photos import readable
from open_nsfw_tf.architecture import BLOCKS, STEM, Weights
from open_nsfw_tf.formats.onnx_graph import INPUT, graph
from open_nsfw_tf.image import tensor
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import GENERATED, Quantized, Range, calibrate, qdq, quantize
from open_nsfw_tf.quantize.samples import generated_pictures, installed_pictures
from open_nsfw_tf.weights import load_weights

WIDEST = 1.15  # times the calibrated range


# -- our quantisation, and the same without one of its steps


def without_equalization(weights: Weights, batch: np.ndarray) -> Quantized:
    """Channels keep the ranges that they have."""
    with patch.object(calibrate, "equalize", lambda folded, *_: folded):
        return quantize(weights, batch)


def rounded_to_nearest(weights: Weights, batch: np.ndarray) -> Quantized:
    """Each weight is rounded by itself."""

    def nearest(kernel: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scales = np.abs(kernel).max(axis=0).astype(np.float32) / calibrate.LEVELS
        return np.round(kernel / scales).astype(np.int8), scales

    with patch.object(calibrate, "round_kernel", nearest):
        return quantize(weights, batch)


OURS: dict[str, Callable[[Weights, np.ndarray], Quantized]] = {
    "ours": quantize,
    "ours without equalised channels": without_equalization,
    "ours with weights rounded to the nearest": rounded_to_nearest,
}


def widened(network: Quantized, random: np.random.Generator) -> Quantized:
    """The network with every tensor's range up to 15 % wider: other rounding errors."""

    def wider(held: Range) -> Range:
        return replace(held, scale=held.scale * random.uniform(1, WIDEST))

    convolutions = {
        key: replace(conv, output=wider(conv.output))
        for key, conv in network.convolutions.items()
    }
    streams = {key: wider(held) for key, held in network.streams.items()}
    entering = convolutions[STEM.key].output
    for stage in BLOCKS:
        # Both inputs of a concatenation have one range: see `calibrate`.
        second = stage[0].main[1].key
        convolutions[second] = replace(convolutions[second], output=entering)
        entering = streams[stage[-1].key]
    return Quantized(convolutions, streams, network.dense)


# -- ONNX Runtime's static quantisation


def static(weights: Weights, batch: np.ndarray, first_in_float: bool) -> bytes:
    """ONNX Runtime's own, as its documentation advises for convolutional networks.

    uint8 activations, int8 weights with a scale a channel, ranges by the least and the
    largest value; the last layer and the softmax in float.
    """
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.pictures = iter(batch)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {INPUT: picture[np.newaxis]}

    model = graph(weights)
    floats = [n.name for n in model.graph.node if n.op_type in ("Gemm", "Softmax")]
    if first_in_float:
        floats.append(next(n.name for n in model.graph.node if n.op_type == "Conv"))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        ort.quantize_static(
            source,
            target,
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=floats,
        )
        return target.read_bytes()


# -- the measurement


def nsfw(model: bytes, batch: np.ndarray) -> np.ndarray:
    """NSFW scores of a serialized network, float32 (N,)."""
    session = open_session(model)
    answers = [session.run(None, {INPUT: picture[np.newaxis]})[0] for picture in batch]
    return np.concatenate(answers)[:, 1]


def models(
    name: str, weights: Weights, batch: np.ndarray, networks: int
) -> list[bytes]:
    """The networks of a row of the table, calibrated on a batch, serialized."""
    if name not in OURS:
        return [static(weights, batch, "first layer in float" in name)]
    network, random = OURS[name](weights, batch), np.random.default_rng(0)
    varied = [network, *(widened(network, random) for _ in range(networks - 1))]
    return [qdq.graph(one).SerializeToString() for one in varied]


NAMES = (
    *OURS,
    "ONNX Runtime, static",
    "ONNX Runtime, static, first layer in float",
)


class Benchmark:
    """The photographs, their exact scores, and what was measured so far.

    Args:
        folds: how many parts the installed photographs are split into.
        held_out: float32 (N, 224, 224, 3), photographs of the user's.
        networks: over how many each figure of ours is a mean.
    """

    def __init__(self, folds: int, held_out: np.ndarray, networks: int) -> None:
        self.weights = load_weights()
        self.installed = np.stack([tensor(p) for p in installed_pictures()])
        self.generated = np.stack(
            [tensor(picture) for picture in generated_pictures(GENERATED)]
        )
        self.fold = np.arange(len(self.installed)) % folds
        self.held_out, self.networks = held_out, networks
        exact = graph(self.weights).SerializeToString()
        self.exact = nsfw(exact, self.installed)
        self.exact_held_out = nsfw(exact, held_out) if len(held_out) else np.empty(0)

    def row(self, name: str) -> dict[str, tuple[float, float]]:
        """The largest and the mean change of a score, by what was scored."""
        within, across = [], []
        for number in range(self.fold.max() + 1):
            out = self.fold == number
            changes = self._changes(name, ~out, self.installed, self.exact)
            within.append(changes[:, ~out])
            across.append(changes[:, out])
        columns = {
            "calibration": np.concatenate(within, axis=1),
            "held out": np.concatenate(across, axis=1),
        }
        if len(self.held_out):
            everything = np.ones(len(self.installed), bool)
            columns["held out, yours"] = self._changes(
                name, everything, self.held_out, self.exact_held_out
            )
        return {
            column: (float(changes.max(axis=1).mean()), float(changes.mean()))
            for column, changes in columns.items()
        }

    def _changes(
        self, name: str, chosen: np.ndarray, batch: np.ndarray, exact: np.ndarray
    ) -> np.ndarray:
        """By network and picture, calibrated on the chosen installed photographs."""
        calibration = np.concatenate([self.installed[chosen], self.generated])
        found = models(name, self.weights, calibration, self.networks)
        return np.abs([nsfw(model, batch) - exact for model in found])


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--held-out", type=Path, help="folder of other photographs")
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    held_out = []
    if arguments.held_out:
        held_out = [tensor(path) for path in readable(arguments.held_out, 1000)]
    benchmark = Benchmark(arguments.folds, np.array(held_out), arguments.networks)
    rows = {}
    for name in arguments.only or NAMES:
        rows[name] = benchmark.row(name)
        if len(rows) == 1:
            print(
                "|", " | ".join(["largest, mean change of a score", *rows[name]]), "|"
            )
            print("|---" * (len(rows[name]) + 1) + "|")
        cells = [f"{most:.4f}, {mean:.4f}" for most, mean in rows[name].values()]
        print("|", " | ".join([name, *cells]), "|", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
