"""Weights to signed 8 bits, so that the layer's output changes least.

After E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ", arXiv 2210.17323, which
goes back to B. Hassibi and D. Stork, "Second order derivatives for network pruning:
Optimal brain surgeon", 1992: weights are rounded one input after the other, and those
not yet rounded make up for the error, as the inputs' second moments tell.
"""

import numpy as np

LEVELS = 127  # -127..127: -128 would make the range lopsided
DAMPING = 0.01  # of the mean second moment, added to each; GPTQ's own value
BLOCK = 64  # inputs after which the rest is brought up to date at once; no result


def round_kernel(
    kernel: np.ndarray, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel, one scale an output channel.

    Args:
        kernel: float (K, out), K inputs.
        moments: float64 (K, K), sums of products of inputs over the calibration.

    Returns:
        Codes, int8 (K, out), and scales, float32 (out,).
    """
    largest = np.abs(kernel).max(axis=0)
    scales = np.maximum(largest, 1e-12).astype(np.float32) / np.float32(LEVELS)
    order, upper = _inverse_root(moments)
    left = kernel[order].astype(np.float64)
    codes = np.empty(left.shape)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for row in range(start, stop):
            code = np.clip(np.round(left[row] / scales), -LEVELS, LEVELS)
            error = (left[row] - code * scales) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
            codes[row], errors[row - start] = code, error
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return codes[np.argsort(order)].astype(np.int8), scales


def _inverse_root(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order, strongest input first, and the upper root of the moments' inverse."""
    strength = np.diag(moments).copy()
    order = np.argsort(-strength, kind="stable")
    silent = np.where(strength == 0, 1.0, 0.0)
    damped = moments + np.diag(silent + DAMPING * strength.mean())
    if not strength.any():
        damped = np.eye(len(moments))
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    return order, np.linalg.cholesky((inverse + inverse.T) / 2).T
