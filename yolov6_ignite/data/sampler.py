"""Which samples a batch consists of: a pure function of (seed, epoch, step), cut into shares for the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from yolov6_ignite.data.class_balance import draw_repeats
from yolov6_ignite.data.random_stream import epoch_generator

__all__ = ["EpochBatchSampler", "SampleKey", "epoch_batches"]


class SampleKey(NamedTuple):
    """A sample: which image, in which epoch (from 0), at which position of the epoch's global order."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    epoch: int
    position: int


def epoch_batches(num_samples: int, batch_size: int) -> int:
    """Number of global batches in an epoch; the last may be short."""
    return -(-num_samples // batch_size)


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Batches of one rank.

    An epoch is ``ceil(n / batch_size)`` global batches, each cut into contiguous shares, one a rank. The last is
    short; it is filled from the epoch's start only until its size is a multiple of the world size. Positions, hence
    augmentations, go on counting there. With ``repeats``, images are shown that often in an epoch, each time at
    another position, and n is the rounded sum of them in every epoch.

    Args:
        num_samples: number of images.
        batch_size: of the global batch, at least ``world_size``.
        seed: of the orders.
        shuffle: a new order every epoch; otherwise always ``order``.
        order: permutation used without ``shuffle``; by default 0, 1, 2, ...
        repeats: (num_samples,) times that each image is shown in an epoch, at least 1; with ``shuffle`` only.
        rank: whose shares.
        world_size: number of ranks.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        order: Sequence[int] | NDArray[np.int64] | None = None,
        repeats: NDArray[np.float64] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1:
            raise ValueError("num_samples must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below world_size {world_size}")
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} is less than world_size {world_size}")
        if repeats is not None and not (shuffle and len(repeats) == num_samples and repeats.min() >= 1):
            raise ValueError(f"repeats need shuffle and {num_samples} numbers of at least 1")
        self.epoch_samples = num_samples if repeats is None else round(float(repeats.sum()))
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self._fixed_order = np.arange(num_samples) if order is None else np.asarray(order, dtype=np.int64)
        self._repeats = repeats
        self._epoch = 0
        self._start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose what the next iteration yields: an epoch (from 0), from a step on."""
        self._epoch = epoch
        self._start_step = start_step

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration starts."""
        return epoch_batches(self.epoch_samples, self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = self._epoch, self._order(self._epoch)
        for step in range(self._start_step, len(self)):
            first = step * self.batch_size
            size = min(self.batch_size, self.epoch_samples - first)
            padded = min(-(-size // self.world_size) * self.world_size, self.batch_size)
            start, end = (first + rank * padded // self.world_size for rank in (self.rank, self.rank + 1))
            yield [SampleKey(int(order[at % self.epoch_samples]), epoch, at) for at in range(start, end)]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return self._fixed_order
        rng = epoch_generator(self.seed, epoch)
        return rng.permutation(self.epoch_samples if self._repeats is None else draw_repeats(self._repeats, rng))
