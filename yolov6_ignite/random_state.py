"""The global random generators: seeding, and their state as part of a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

__all__ = ["random_state", "seed_everything", "set_random_state"]


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds Python, NumPy and torch; ``deterministic`` also asks for reproducible CUDA kernels, at some speed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic


def random_state() -> dict[str, Any]:
    """State of the global generators as tensors and plain values.

    A user's handler or module may draw from them; after the weights' initialisation the default run draws from none.
    """
    name, keys, position, has_gauss, gauss = cast(
        tuple[str, np.ndarray, int, int, float], np.random.get_state(legacy=True)
    )
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
