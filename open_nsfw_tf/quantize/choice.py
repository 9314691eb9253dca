"""Ranges chosen by the scores that they give.

What rounding adds to a picture's score is noise that grows along the network: another
step of an early tensor gives another sum, of the same spread. So ranges are varied a
little, each variant is run as it will be run, and the one that drifts least is kept.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from open_nsfw_tf.architecture import BLOCKS, STEM, Weights
from open_nsfw_tf.backend import open_session
from open_nsfw_tf.formats.onnx_graph import INPUT, OUTPUT, graph
from open_nsfw_tf.quantize import Quantized, Range, qdq

TRIALS = 64
ENOUGH = 0.004  # drift at which no others are tried
WIDEST = 1.15  # times the calibrated range


Answer = Callable[[Quantized, np.ndarray], np.ndarray]


def settle(
    network: Quantized,
    weights: Weights,
    batch: np.ndarray,
    answer: Answer,
    trials: int = TRIALS,
    enough: float = ENOUGH,
) -> Quantized:
    """The variant of a rounded network that drifts least on some pictures.

    Args:
        network: from `walk`.
        weights: the canonical dict, which it was made of.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).
        answer: scores, float32 (N, 2), of a variant and a batch in its own runtime.
        trials: variants at most.
        enough: drift at which no others are tried.

    Returns:
        The network itself or one with other ranges, with its `drift`.
    """
    wanted = _run(graph(weights).SerializeToString(), batch)
    random = np.random.default_rng(0)
    best, tried = network, network
    for trial in range(trials):
        tried.drift = float(np.abs(answer(tried, batch) - wanted).max())
        if not trial or tried.drift < best.drift:
            best = tried
        if best.drift <= enough:
            break
        tried = varied(network, random)
    return best


def onnx_scores(network: Quantized, batch: np.ndarray) -> np.ndarray:
    """What ONNX Runtime answers, float32 (N, 2)."""
    return _run(qdq.graph(network).SerializeToString(), batch)


def varied(network: Quantized, random: np.random.Generator) -> Quantized:
    """The network with every tensor's range a little wider."""
    found = dict(network.convolutions)
    streams = {place: _wider(at, random) for place, at in network.streams.items()}
    for place, made in network.convolutions.items():
        found[place] = replace(made, output=_wider(made.output, random))
    entering = found[STEM.place].output
    for stage in BLOCKS:
        # The inputs of a concatenation have one range: see `walk`.
        second = stage[0].main[1].place
        found[second] = replace(found[second], output=entering)
        entering = streams[stage[-1].place]
    return Quantized(found, streams, network.dense)


def _wider(at: Range, random: np.random.Generator) -> Range:
    return replace(at, scale=at.scale * random.uniform(1, WIDEST))


def _run(model: bytes, batch: np.ndarray) -> np.ndarray:
    session = open_session(model)
    parts = np.array_split(batch, max(1, len(batch) // 8))
    answers = [session.run([OUTPUT], {INPUT: part})[0] for part in parts]
    scores: np.ndarray = np.concatenate(answers)
    return scores
