"""The one place that attaches handlers, in the order in which they act."""

from __future__ import annotations

import importlib
import inspect
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
from yolov6_ignite.checkpoint import strip_checkpoint, write_text
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError, NonFiniteError, StoppedError
from yolov6_ignite.optim import Schedule
from yolov6_ignite.run_files import LazyWriter

__all__ = ["Parts", "configured_handlers", "default_handlers", "first_epoch_without_strong_augmentation"]

MAP = "val/mAP@0.50:0.95"


@dataclass(frozen=True)
class Parts:
    """What the default handlers work with.

    Attributes:
        model: the model in training, not wrapped.
        optimizer: its parameter groups are (batch norm weights, other weights, biases).
        scaler: gradient scaler.
        schedule: learning rate, momentum and accumulation by iteration.
        make_loader_after_cutoff: the training loader without mosaic and mixup.
        evaluate: model to metrics by name.
        draw_batch: training batch to an RGB image.
        draw_predictions: RGB images of the evaluation that has just been made.
        draw_plots: writes the plots of that evaluation into a folder.
        save: writes the run's whole state to a path; every rank calls it, rank 0 writes.
        keep_batch: saves a batch that led to non-finite gradients; returns where.
        run_dir: the run's folder.
        writer: TensorBoard writer; used on rank 0 only.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    make_loader_after_cutoff: Callable[[], Any]
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    draw_batch: Callable[[Any], np.ndarray]
    draw_predictions: Callable[[], list[np.ndarray]]
    draw_plots: Callable[[Path], None]
    save: Callable[[Path], None]
    keep_batch: Callable[[Any], str]
    run_dir: Path
    writer: LazyWriter


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
    handlers = h.HandlerSet(engine)
    first_rank = idist.get_rank() == 0
    weights = parts.run_dir / "weights"
    cutoff = first_epoch_without_strong_augmentation(config)

    if cutoff is not None and cutoff <= config.train.epochs:
        handlers.add("augmentation_cutoff", h.AugmentationCutoff(cutoff, parts.make_loader_after_cutoff))
    handlers.add("sampler_epoch", h.SamplerEpoch())
    handlers.add("learning_rate", h.LearningRatePolicy(parts.optimizer, parts.schedule.at))
    handlers.add(
        "finite_guard",
        h.FiniteGuard(
            parts.model,
            parts.optimizer,
            parts.scaler,
            max_bad_steps=config.train.max_bad_steps,
            keep_batch=parts.keep_batch,
            exit_code=NonFiniteError.exit_code,
        ),
    )
    handlers.add(
        "accumulation",
        h.GradientAccumulation(
            parts.optimizer, parts.scaler, lambda iteration: parts.schedule.at(iteration).accumulate
        ),
    )
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
    handlers.add("timing", h.Timing(parts.run_dir / "timing.csv"), attach=first_rank)
    handlers.add(
        "history", h.History(parts.run_dir / "metrics.csv" if first_rank else None, parts.optimizer, write_text)
    )
    handlers.add("best_checkpoint", h.BestCheckpoint(weights / "best_ckpt.pt", parts.save, metric=MAP))
    if cutoff is not None and cutoff <= config.train.epochs:
        handlers.add(
            "best_stop_aug_checkpoint",
            h.BestCheckpoint(weights / "best_stop_aug_ckpt.pt", parts.save, metric=MAP, first_epoch=cutoff, ties=False),
        )
    handlers.add("tensorboard", h.TensorBoardScalars(parts.writer), attach=first_rank)
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
    handlers.add("stop", h.StopOnRequest(signal_exit_code=StoppedError.exit_code))
    handlers.add("strip", h.StripCheckpoints(weights, strip_checkpoint), attach=first_rank)
    return handlers


def configured_handlers(config: Config) -> list[tuple[str, h.Handler]]:
    """The ``handlers:`` of the configuration, to be added behind the default ones on every rank, by class name.

    Each is ``{"module:Class": {argument: value}}``.

    Raises:
        ConfigError: an entry cannot be imported or built, or is no handler.
    """
    built = []
    for index, entry in enumerate(config.handlers):
        for target, arguments in entry.items():
            where = f"handlers.{index}: {target}"
            module_name, separator, class_name = target.partition(":")
            if not separator or not class_name:
                raise ConfigError(f"{where}: expected module:Class, for example my_project.handlers:Notifier")
            try:
                handler_class = getattr(importlib.import_module(module_name), class_name)
            except ImportError as error:
                raise ConfigError(f"{where}: cannot be imported ({error}); is it on PYTHONPATH?") from error
            except AttributeError as error:
                raise ConfigError(f"{where}: {module_name} has no {class_name}") from error
            try:
                inspect.signature(handler_class).bind(**(arguments or {}))
                handler = handler_class(**(arguments or {}))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{where}: {error}") from error
            if not isinstance(handler, h.Handler):
                raise ConfigError(f"{where}: {class_name} has no attach(engine), so it is no handler")
            built.append((class_name, handler))
    return built
