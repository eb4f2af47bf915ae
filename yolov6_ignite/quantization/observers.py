"""What an activation's values look like over the calibration images: their maximum, or a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov6_ignite.quantization.amax import amax_by
from yolov6_ignite.quantization.spec import QuantizationSpec

__all__ = ["HistogramObserver", "MaxObserver", "Observation", "new_observer"]

BINS = 2048
MAX_BINS = 8 * BINS
CHUNK = 1 << 24  # torch.histc counts in the values' type, and float32 has no whole numbers above


class Observation(NamedTuple):
    """What one observer saw, on the CPU, so that ranks can exchange it.

    Attributes:
        largest: magnitude; not finite when a value was not.
        negative: whether any value was below 0.
        counts: of magnitudes, by bins of `width`; empty where only the maximum was asked for.
        width: of a bin; 0 before the first value other than 0.
        zeros: values that were 0 before there was a width.
    """

    largest: float
    negative: bool
    counts: np.ndarray
    width: float
    zeros: float

    @staticmethod
    def merged(parts: Sequence[Observation]) -> Observation:
        """The observation of all parts together: of every rank, in order, so that all ranks get the same."""
        width = max(part.width for part in parts)
        shares = [part.counts if part.width == width else _rebinned(part, width) for part in parts if part.width > 0]
        counts = np.zeros(max(map(len, shares), default=0))
        for share in shares:
            counts[: len(share)] += share
        return Observation(
            float(np.max([part.largest for part in parts])),  # numpy's: not a number stays one
            any(part.negative for part in parts),
            counts,
            width,
            sum(part.zeros for part in parts),
        )

    def amax(self, spec: QuantizationSpec) -> float:
        """The range by the method of `spec`; 0 when only zeros were seen, not finite when a value was not."""
        if spec.method == "max" or not math.isfinite(self.largest) or self.width == 0:
            return self.largest
        counts = self.counts.copy()
        counts[0] += self.zeros
        amax = amax_by(spec.method, counts, self.width, num_bits=spec.bits, percentile=spec.percentile)
        return min(amax, self.largest)  # an upper edge of a bin can lie beyond


class MaxObserver:
    """Keeps the largest magnitude."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None
        self._negative: Tensor | None = None

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Adds the values of a tensor of any shape, which is not empty."""
        low, high = x.aminmax()
        largest, negative = torch.maximum(-low, high).float(), low < 0
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._negative = negative if self._negative is None else self._negative | negative

    def observation(self) -> Observation:
        """What was seen so far."""
        largest = 0.0 if self._largest is None else float(self._largest)
        return Observation(largest, self._negative is not None and bool(self._negative), np.zeros(0), 0.0, 0.0)


class HistogramObserver(MaxObserver):
    """Counts magnitudes in bins; the first values other than 0 decide their width, larger ones add bins.

    Beyond 8 times the first range, neighbouring bins are merged instead, so that the memory stays bounded. Reads the
    range on the host, which waits for the device: for calibration, not for training.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts = np.zeros(0)
        self._width = 0.0
        self._zeros = 0.0

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        super().update(x)
        magnitudes = x.detach().float().abs().flatten()
        largest = float(magnitudes.max())
        if not math.isfinite(largest):
            return  # the maximum tells
        if self._width == 0:
            if largest == 0:
                self._zeros += magnitudes.numel()
                return
            self._counts, self._width = np.zeros(BINS), largest / BINS
        self._grow(largest)
        end = len(self._counts) * self._width
        magnitudes.clamp_(max=end)  # the largest may lie an ulp beyond, and histc drops it
        for chunk in magnitudes.split(CHUNK):
            counts = torch.histc(chunk, len(self._counts), 0, end)
            self._counts += counts.cpu().numpy().astype(np.float64)

    def _grow(self, largest: float) -> None:
        while math.ceil(largest / self._width) > MAX_BINS:
            counts = np.pad(self._counts, (0, len(self._counts) % 2))
            self._counts, self._width = counts.reshape(-1, 2).sum(axis=1), 2 * self._width
        missing = math.ceil(largest / self._width) - len(self._counts)
        if missing > 0:
            self._counts = np.pad(self._counts, (0, missing))

    def observation(self) -> Observation:
        maximum = super().observation()
        return maximum._replace(counts=self._counts.copy(), width=self._width, zeros=self._zeros)


def new_observer(spec: QuantizationSpec) -> MaxObserver:
    """The observer that the method of `spec` needs."""
    return MaxObserver() if spec.method == "max" else HistogramObserver()


def _rebinned(part: Observation, width: float) -> np.ndarray:
    """Counts by wider bins: every narrow bin goes where its centre lies."""
    target = ((np.arange(len(part.counts)) + 0.5) * (part.width / width)).astype(np.int64)
    return np.bincount(target, weights=part.counts)
