"""From a histogram of magnitudes to the range that is worth quantising (specification, models 14.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.quantization.spec import Method

__all__ = ["amax_by"]

Counts = NDArray[np.float64]

MSE_BINS = 4096  # candidates times bins are compared: more bins are merged first
MSE_CHUNK = 256  # candidates at a time
MOST_CLIPPED = 0.1  # of all values: a range that has next to none of them would have no divergence either
ROUNDING = 1e-12  # divergences this near are equal


def amax_by(method: Method, counts: Counts, width: float, *, num_bits: int = 8, percentile: float = 99.99) -> float:
    """The largest magnitude that is to be represented exactly; larger ones are clipped to it.

    Args:
        method: `max` keeps everything, `percentile` a part of all values, `mse` gives the smallest squared error and
            `entropy` the smallest Kullback-Leibler divergence of what quantisation leaves from what there was, among
            ranges that clip at most a tenth of all values.
        counts: (bins,) how many values have a magnitude in [i * width, (i + 1) * width).
        width: of a bin, above 0.
        num_bits: of a signed integer, for `mse` and `entropy`.
        percentile: in (0, 100].

    Returns:
        The range, above 0; 0 when there are no counts.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return 0.0
    if method == "max":
        return float((filled[-1] + 1) * width)
    if method == "percentile":
        share = np.cumsum(counts) / counts.sum()
        return float((min(int(np.searchsorted(share, percentile / 100)), len(counts) - 1) + 1) * width)
    if method == "mse":
        return _least_squared_error(counts, width, (1 << (num_bits - 1)) - 1)
    return _least_divergence(counts, 1 << (num_bits - 1)) * width


def _least_squared_error(counts: Counts, width: float, steps: int) -> float:
    """The bin centre that gives the smallest squared error when it is the end of `steps` equal steps from 0."""
    while len(counts) > MSE_BINS:
        counts, width = np.pad(counts, (0, len(counts) % 2)).reshape(-1, 2).sum(axis=1), width * 2
    centres = (np.arange(len(counts)) + 0.5) * width
    used = np.flatnonzero(counts)
    values, weights = centres[used], counts[used]
    errors = []
    for start in range(0, len(centres), MSE_CHUNK):
        scales = centres[start : start + MSE_CHUNK, None] / steps
        quantized = np.minimum(np.rint(values / scales), steps) * scales
        errors.append(np.square(quantized - values) @ weights)
    return float(centres[int(np.argmin(np.concatenate(errors)))])


def _least_divergence(counts: Counts, levels: int) -> int:
    """The number of bins to keep: what lies beyond is added to the last one, the rest is pooled into `levels`.

    The divergence of every candidate comes from cumulative sums. Of equal ones the last wins.
    """
    counts = counts.copy()
    if len(counts) > 1:
        counts[0] = counts[1]  # zeros, which every range represents exactly, would outweigh the rest
    if len(counts) <= levels or not counts.any():
        return len(counts)
    kept = np.arange(levels, len(counts) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(counts > 0, counts * np.log(counts), 0)
    total, up_to, filled, entropy_up_to = (
        counts.sum(),
        _cumulative(counts),
        _cumulative(counts > 0),
        _cumulative(entropy),
    )
    beyond = total - up_to[kept]
    # Bin k of i kept ones goes to level k * levels / i, so level g begins at the first bin from g * i / levels on.
    starts = -(-np.arange(levels + 1) * kept[:, None] // levels)
    pooled, bins = np.diff(up_to[starts], axis=1), np.diff(filled[starts], axis=1)
    inside = up_to[kept]
    last = counts[kept - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_density = np.where(pooled > 0, np.log(pooled / (bins * inside[:, None])), 0)
        # Sum of p log p, where only the last bin differs from the counts; then that of p log q.
        clipped = last + beyond
        own = entropy_up_to[kept - 1] + np.where(clipped > 0, clipped * np.log(clipped), 0) - total * np.log(total)
        moved = np.where(beyond > 0, beyond * np.where(last > 0, log_density[:, -1], -np.inf), 0)
        divergence = (own - ((pooled * log_density).sum(axis=1) + moved)) / total
    divergence[beyond > MOST_CLIPPED * total] = np.inf
    return int(kept[np.flatnonzero(divergence <= divergence.min() + ROUNDING)[-1]])


def _cumulative(values: NDArray[np.float64] | NDArray[np.bool_]) -> Counts:
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
