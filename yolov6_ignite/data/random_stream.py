"""Counter-based random generators: what a sample draws depends on (seed, epoch, position) and nothing else."""

from __future__ import annotations

import numpy as np

__all__ = ["epoch_generator", "sample_generator"]

SAMPLE_STREAM, EPOCH_STREAM = 0, 1


def sample_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Generator of the sample at one position of an epoch's global order (Salmon et al. 2011, Philox)."""
    return _generator(seed, SAMPLE_STREAM, epoch, position)


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Generator of an epoch's order."""
    return _generator(seed, EPOCH_STREAM, epoch, 0)


def _generator(seed: int, stream: int, epoch: int, position: int) -> np.random.Generator:
    # The two low words of the counter run while numbers are drawn, so streams cannot overlap.
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, position, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
