"""Batch norms into the convolutions before them, and out again."""

import numpy as np

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    CONVOLUTIONS,
    DENSE,
    Layer,
    Weights,
    check_weights,
)


def identity_batch_norm(channels: int) -> Layer:
    """The batch norm that changes nothing: variance and epsilon sum to one."""
    one = np.ones(channels, np.float32)
    return {
        "mean": np.zeros(channels, np.float32),
        "variance": one - np.float32(BATCH_NORM_EPSILON),
        "scale": one,
        "offset": np.zeros(channels, np.float32),
    }


def fold_batch_norm(weights: Weights) -> Weights:
    """Move every batch norm into the convolution before it.

    The function that the weights compute stays the same up to float32 rounding; the
    arithmetic is done in float64. Folding folded weights changes no bit.

    Args:
        weights: the canonical dict, complete.

    Returns:
        A new canonical dict, whose batch norms are `identity_batch_norm`.

    Raises:
        WeightsError: as `check_weights`.
    """
    check_weights(weights)
    folded: Weights = {}
    for conv in CONVOLUTIONS:
        kernel, norm = weights[f"conv_{conv.place}"], weights[f"bn_{conv.place}"]
        variance = norm["variance"].astype(np.float64) + BATCH_NORM_EPSILON
        factor = norm["scale"] / np.sqrt(variance)
        biases = (kernel["biases"] - norm["mean"].astype(np.float64)) * factor
        with np.errstate(over="ignore"):  # found when all is done
            folded[f"conv_{conv.place}"] = {
                "weights": (kernel["weights"] * factor).astype(np.float32),
                "biases": (biases + norm["offset"]).astype(np.float32),
            }
        folded[f"bn_{conv.place}"] = identity_batch_norm(conv.outputs)
    folded[DENSE] = {field: array.copy() for field, array in weights[DENSE].items()}
    check_weights(folded)  # scales may be finite and their products not
    return folded


def unfold_batch_norm(weights: Weights, seed: int) -> Weights:
    """Give every convolution a batch norm of random statistics that it makes up for.

    The opposite of `fold_batch_norm`, for what only takes or only tests weights with
    batch norms: the function that they compute stays the same up to float32 rounding.
    Some variances are as small as epsilon and some scales are negative, so that a
    reader that mistakes one field for another, or epsilon, does not go unseen.

    Args:
        weights: the canonical dict, complete; its batch norms are folded first.
        seed: of the random statistics; the same seed gives the same weights.

    Returns:
        A new canonical dict.

    Raises:
        WeightsError: as `check_weights`.
    """
    random = np.random.default_rng(seed)
    unfolded = fold_batch_norm(weights)
    for conv in CONVOLUTIONS:
        count = conv.outputs
        kernel = unfolded[f"conv_{conv.place}"]
        sign = random.choice([-1.0, 1.0], count)
        variance = (10 ** random.uniform(-5, 1, count)).astype(np.float32)
        deviation = np.sqrt(variance.astype(np.float64) + BATCH_NORM_EPSILON)
        norm = {
            "mean": (random.uniform(-0.25, 0.25, count) * deviation).astype(np.float32),
            "variance": variance,
            "scale": (sign * random.uniform(0.5, 2, count)).astype(np.float32),
        }
        factor = norm["scale"] / deviation
        biases = (random.uniform(-0.25, 0.25, count) * deviation).astype(np.float32)
        # From the rounded values, so that the last one makes up for their rounding.
        shift = (biases - norm["mean"].astype(np.float64)) * factor
        norm["offset"] = (kernel["biases"] - shift).astype(np.float32)
        unfolded[f"conv_{conv.place}"] = {
            "weights": (kernel["weights"] / factor).astype(np.float32),
            "biases": biases,
        }
        unfolded[f"bn_{conv.place}"] = norm
    return unfolded


def is_folded(weights: Weights) -> bool:
    """Whether every batch norm is `identity_batch_norm`, bit for bit."""
    return all(
        np.array_equal(weights[f"bn_{conv.place}"][field], array)
        for conv in CONVOLUTIONS
        for field, array in identity_batch_norm(conv.outputs).items()
    )
