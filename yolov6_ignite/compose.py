"""The one place that attaches handlers, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from yolov6_ignite import handlers as h
from yolov6_ignite.checkpoint import strip_checkpoint, to_plain, write_text
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError, NonFiniteError, StoppedError
from yolov6_ignite.optim import Schedule
from yolov6_ignite.quantization import check_trainable
from yolov6_ignite.run_files import LazyWriter

__all__ = [
    "Parts",
    "configured_trackers",
    "default_handlers",
    "first_epoch_without_strong_augmentation",
]

MAP = "val/mAP@0.50:0.95"


@dataclass(frozen=True)
class Parts:
    """What the default handlers work with.

    Attributes:
        device: where the step runs.
        model: the model in training, not wrapped.
        optimizer: its parameter groups are (batch norm weights, other weights, biases).
        scaler: gradient scaler.
        schedule: learning rate, momentum and accumulation by iteration.
        make_loader_after_cutoff: the training loader without mosaic and mixup; None: there is no cutoff.
        evaluate: model to metrics by name.
        evaluate_teacher: metrics of the teacher by name; None without one.
        draw_batch: training batch to an RGB image.
        draw_predictions: RGB images of the evaluation that has just been made.
        draw_plots: writes the plots of that evaluation into a folder.
        save: writes the run's whole state to a path; every rank calls it, rank 0 writes.
        write_final: writes the weights to use as they are, without the run's state; rank 0 calls it.
        keep_batch: saves a batch that led to non-finite gradients; returns where.
        run_dir: the run's folder.
        writer: TensorBoard writer; used on rank 0 only.
        trackers: experiment trackers by name; used on rank 0 only.
    """

    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    make_loader_after_cutoff: Callable[[], Any] | None
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    evaluate_teacher: Callable[[], Mapping[str, float]] | None
    draw_batch: Callable[[Any], np.ndarray]
    draw_predictions: Callable[[], list[np.ndarray]]
    draw_plots: Callable[[Path], None]
    save: Callable[[Path], None]
    write_final: Callable[[Path], None]
    keep_batch: Callable[[Any], str]
    run_dir: Path
    writer: LazyWriter
    trackers: Mapping[str, h.Tracker]


def first_epoch_without_strong_augmentation(config: Config) -> int | None:
    """1-based epoch of the cutoff, None when there is nothing to cut off."""
    augment = config.augment
    strong = augment.mosaic > 0 or augment.mixup > 0
    if not strong or augment.stop_last_n_epochs < 0:
        return None
    return config.train.epochs - augment.stop_last_n_epochs + 1


def default_handlers(engine: Engine, config: Config, parts: Parts) -> h.HandlerSet:
    """Attaches the concerns of the original Trainer and a few more, each a handler that can be replaced or removed.

    The order of this body is the order in which they act on an event that several listen to. Every rank has the same
    handlers; those that only rank 0 needs are listed on the others without being attached.
    """
    handlers = h.HandlerSet(engine, to_plain)
    first_rank = idist.get_rank() == 0
    weights = parts.run_dir / "weights"
    cutoff = None if parts.make_loader_after_cutoff is None else first_epoch_without_strong_augmentation(config)

    if config.train.profile:  # before all that it times
        handlers.add("profile", h.Profile(handlers, device=parts.device), attach=first_rank)
    if config.quant.mode == "qat":
        handlers.add(
            "quantization_aware",
            h.QuantizationAwareTraining(
                parts.model, check_trainable, freeze_batch_norm_after=config.quant.freeze_batch_norm_after
            ),
        )
    if parts.evaluate_teacher is not None:
        handlers.add("teacher_accuracy", h.TeacherAccuracy(parts.evaluate_teacher))
    if parts.make_loader_after_cutoff is not None and cutoff is not None and cutoff <= config.train.epochs:
        handlers.add("augmentation_cutoff", h.AugmentationCutoff(cutoff, parts.make_loader_after_cutoff))
    handlers.add("sampler_epoch", h.SamplerEpoch())
    handlers.add("learning_rate", h.LearningRatePolicy(parts.optimizer, parts.schedule.at))
    handlers.add(
        "finite_guard",
        h.FiniteGuard(
            parts.model,
            parts.optimizer,
            max_bad_steps=config.train.max_bad_steps,
            keep_batch=parts.keep_batch,
            exit_code=NonFiniteError.exit_code,
        ),
    )
    if config.solver.max_gradient_norm:
        handlers.add("gradient_clipping", h.GradientClipping(parts.optimizer, config.solver.max_gradient_norm))
    handlers.add("ema", h.ModelEMA(parts.model))
    handlers.add("loss_means", h.LossMeans())
    if config.logging.train_batch_images:
        handlers.add("train_batch_images", h.TrainBatchImages(parts.writer, parts.draw_batch), attach=first_rank)
    handlers.add("ema_buffers", h.EmaBuffersFromRankZero())
    handlers.add(
        "evaluation",
        h.Evaluation(
            parts.evaluate,
            interval=config.eval.interval,
            heavy_range=config.eval.heavy_range,
            final_only=config.eval.final_only,
        ),
    )
    # Handlers that a user adds act here; accumulation comes after them, so that they see a backward pass's gradients.
    handlers.add(
        "accumulation",
        h.GradientAccumulation(
            parts.optimizer, parts.scaler, lambda iteration: parts.schedule.at(iteration).accumulate
        ),
    )
    handlers.add("timing", h.Timing(parts.run_dir / "timing.csv"), attach=first_rank)
    handlers.add(
        "history", h.History(parts.run_dir / "metrics.csv" if first_rank else None, parts.optimizer, write_text)
    )
    if config.train.patience:
        handlers.add(
            "early_stopping",
            h.EarlyStopping(MAP, patience=config.train.patience, minimum_change=config.train.minimum_change),
        )
    handlers.add("best_checkpoint", h.BestCheckpoint(weights / "best_ckpt.pt", parts.save, metric=MAP))
    if cutoff is not None and cutoff <= config.train.epochs:
        handlers.add(
            "best_stop_aug_checkpoint",
            h.BestCheckpoint(weights / "best_stop_aug_ckpt.pt", parts.save, metric=MAP, first_epoch=cutoff, ties=False),
        )
    handlers.add("tensorboard", h.TensorBoardScalars(parts.writer), attach=first_rank)
    for name, tracker in parts.trackers.items():
        handlers.add(name, tracker, attach=first_rank)
    if config.logging.prediction_images:
        handlers.add("prediction_images", h.PredictionImages(parts.writer, parts.draw_predictions), attach=first_rank)
    if config.eval.plots:
        handlers.add("plots", h.EvaluationPlots(parts.run_dir / "plots", parts.draw_plots), attach=first_rank)
    handlers.add("progress", h.Progress(config.logging.interval), attach=first_rank)
    if config.checkpoint.last_n_epochs:
        last_n = config.checkpoint.last_n_epochs
        handlers.add("epoch_checkpoints", h.EpochCheckpoints(weights, parts.save, last_n_epochs=last_n))
    handlers.add(
        "last_checkpoint",
        h.LastCheckpoint(weights / "last_ckpt.pt", parts.save, every_iterations=config.checkpoint.every_iterations),
    )
    if config.train.time_limit is not None:
        handlers.add(
            "time_limit", h.TimeLimit(config.train.time_limit, exit_code=StoppedError.exit_code), attach=first_rank
        )
    handlers.add("stop", h.StopOnRequest(exit_code=StoppedError.exit_code))
    handlers.add("strip", h.StripCheckpoints(weights, strip_checkpoint, parts.write_final), attach=first_rank)
    handlers.put_others_before("accumulation")
    return handlers


def configured_trackers(config: Config, run_name: str) -> dict[str, h.Tracker]:
    """The ``logging.trackers`` by name; nothing is sent before the run starts.

    Raises:
        ConfigError: the package of one is not installed.
    """
    try:
        return {
            name: h.Tracker(name, config.model_dump(mode="json"), run_name=run_name) for name in config.logging.trackers
        }
    except ImportError as error:
        raise ConfigError(f"logging.trackers: {error}") from error
