"""The network's operations in numpy, as calibration needs them: NHWC, float32."""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from open_nsfw_tf.architecture import POOL_SIZE, POOL_STRIDE, Convolution

CHUNK = 8  # pictures whose patches are laid out at once: at most 230 MB


def patches(images: np.ndarray, conv: Convolution) -> np.ndarray:
    """What each output pixel of a convolution sees.

    Args:
        images: float32 (N, height, width, in).
        conv: its kernel, stride and padding.

    Returns:
        float32 (N, height', width', kernel * kernel * in), in the kernels' HWI order.
    """
    step, pad = conv.stride, conv.padding
    if conv.kernel == 1:
        return images[:, ::step, ::step]
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sides = (conv.kernel, conv.kernel)
    windows = sliding_window_view(padded, sides, axis=(1, 2))[:, ::step, ::step]
    seen = windows.transpose(0, 1, 2, 4, 5, 3)  # N, h, w, in, k, k to N, h, w, k, k, in
    return seen.reshape(*seen.shape[:3], -1)


def _chunks(images: np.ndarray, conv: Convolution) -> Iterator[np.ndarray]:
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float32)
        yield patches(chunk, conv)


def convolve(
    images: np.ndarray,
    conv: Convolution,
    kernel: np.ndarray,
    biases: np.ndarray | float = 0,
) -> np.ndarray:
    """float32 (N, height', width', out) of float32 or uint8 (N, height, width, in)."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    made = [seen @ flat + np.float32(biases) for seen in _chunks(images, conv)]
    return np.concatenate(made)


def second_moments(images: np.ndarray, conv: Convolution) -> np.ndarray:
    """Sums of products of all pairs of inputs of a convolution, float64 (K, K)."""
    total = 0.0
    for seen in _chunks(images, conv):
        rows = seen.reshape(-1, seen.shape[-1])
        total = total + (rows.T @ rows).astype(np.float64)
    return np.asarray(total)


def max_pool(images: np.ndarray) -> np.ndarray:
    """Caffe's `pool1`: 3x3, stride 2; the output's size is rounded up."""
    ends = ((0, 0), (0, 1), (0, 1), (0, 0))
    padded = np.pad(images, ends, constant_values=-np.inf)
    windows = sliding_window_view(padded, (POOL_SIZE, POOL_SIZE), axis=(1, 2))
    pooled: np.ndarray = windows[:, ::POOL_STRIDE, ::POOL_STRIDE].max((-1, -2))
    return pooled


def relu(images: np.ndarray) -> np.ndarray:
    """Negative values become 0."""
    positive: np.ndarray = np.maximum(images, 0)
    return positive
