"""YOLOv6 training as PyTorch-Ignite handlers.

Names are imported on first use, so that a command can report a missing system library instead of failing to start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov6_ignite.calibration_run import build_calibration_run
    from yolov6_ignite.config import Config
    from yolov6_ignite.config_file import load_config
    from yolov6_ignite.evaluation import build_evaluation
    from yolov6_ignite.losses import build_loss
    from yolov6_ignite.models import build_model
    from yolov6_ignite.training import Training, build_training
    from yolov6_ignite.weights import load_model

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Training",
    "build_calibration_run",
    "build_evaluation",
    "build_loss",
    "build_model",
    "build_training",
    "load_config",
    "load_model",
]

_HOMES = {
    "Config": "config",
    "Training": "training",
    "build_calibration_run": "calibration_run",
    "build_evaluation": "evaluation",
    "build_loss": "losses",
    "build_model": "models",
    "build_training": "training",
    "load_config": "config_file",
    "load_model": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
