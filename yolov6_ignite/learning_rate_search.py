"""``train.find_lr``: rising learning rates on the first batches of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import nn

from yolov6_ignite.checkpoint import write_text
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.handlers import LearningRateCurve, SamplerEpoch, find_learning_rate

__all__ = ["search_learning_rate"]


def search_learning_rate(
    engine: Engine,
    loader: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: Config,
    path: Path,
) -> LearningRateCurve:
    """Tries rising learning rates, logs a suggestion for ``solver.lr0``, leaves everything as it was.

    Args:
        engine: with the step of a training and nothing attached.
        loader: training batches.
        model: what trains; its weights are restored.
        optimizer: of its parameters; its state is restored.
        scaler: gradient scaler.
        config: of the run.
        path: CSV file for the curve.

    Raises:
        ConfigError: the loss falls at none of them, or there are several ranks.
    """
    if idist.get_world_size() > 1:
        raise ConfigError("train.find_lr: the search is for one device; what it finds is good for any number")
    solver, images = config.solver, config.data.images_per_batch
    SamplerEpoch().attach(engine)
    try:
        curve = find_learning_rate(
            engine,
            loader,
            optimizer,
            scaler,
            restore=[model],
            per_lr0=images / (solver.reference_world_size * solver.reference_device_batch),
            window=max(1, round(solver.nominal_batch_size / images)),
        )
    except ValueError as error:
        raise ConfigError(f"train.find_lr: {error}") from error
    rows = [f"{lr:.6g},{loss:.6g}" for lr, loss in zip(curve.learning_rates, curve.losses, strict=True)]
    write_text(path, "\n".join(["solver.lr0,loss", *rows]) + "\n")
    return curve
