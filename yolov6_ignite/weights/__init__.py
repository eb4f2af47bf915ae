"""Weight files: ours and the officially released ones, read without running anything in them."""

from __future__ import annotations

from yolov6_ignite.weights.download import find_weights
from yolov6_ignite.weights.loading import (
    Weights,
    load_matching_weights,
    load_model,
    load_model_and_config,
    load_trained_weights,
    read_weights,
)

__all__ = [
    "Weights",
    "find_weights",
    "load_matching_weights",
    "load_model",
    "load_model_and_config",
    "load_trained_weights",
    "read_weights",
]
