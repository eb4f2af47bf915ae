"""Scalars and images for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import TrainEvents, require_event, train_state

__all__ = ["PredictionImages", "TensorBoardScalars", "TrainBatchImages"]


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> Any: ...


class TensorBoardScalars:
    """Writes the row of the epoch: losses, learning rates, and accuracy where it was evaluated.

    Acts on ``EPOCH_COMPLETED``, on rank 0. The step is the epoch, counted from 1. Keeps no state.

    Args:
        writer: a ``SummaryWriter``.
    """

    def __init__(self, writer: _Writer) -> None:
        self.writer = writer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for tag, value in (train_state(engine).history or [{}])[-1].items():
            if tag != "epoch":
                self.writer.add_scalar(tag, value, train_state(engine).epoch)


class TrainBatchImages:
    """Shows the first batch of every epoch as ``train_batch``: a grid with file names and labelled boxes.

    Acts on ``ITERATION_COMPLETED`` of an epoch's first iteration (after a resume inside an epoch: the first that is
    left), on rank 0. The step is the epoch, as for scalars:
    a resumed run then replaces exactly what it repeats. Costs one drawing an epoch. Keeps no state.

    Args:
        writer: a ``SummaryWriter``.
        draw: batch to an RGB image (height, width, 3), uint8.
    """

    def __init__(self, writer: _Writer, draw: Callable[[Any], np.ndarray]) -> None:
        self.writer = writer
        self.draw = draw
        self._drawn_epoch = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=self._is_first), self)

    def __call__(self, engine: Engine) -> None:
        self._drawn_epoch = train_state(engine).epoch
        image = self.draw(train_state(engine).batch)
        self.writer.add_image("train_batch", image, train_state(engine).epoch, dataformats="HWC")

    def _is_first(self, engine: Engine, iteration: int) -> bool:
        return train_state(engine).epoch != self._drawn_epoch


class PredictionImages:
    """Shows the predictions on the first validation images as ``val_img_1``, ``val_img_2``, ...

    Acts on ``VALIDATION_COMPLETED``, on rank 0. The step is the epoch. Keeps no state.

    Args:
        writer: a ``SummaryWriter``.
        draw: gives RGB images (height, width, 3), uint8, of the evaluation that has just been made.
    """

    def __init__(self, writer: _Writer, draw: Callable[[], Sequence[np.ndarray]]) -> None:
        self.writer = writer
        self.draw = draw

    def attach(self, engine: Engine) -> None:
        require_event(engine, TrainEvents.VALIDATION_COMPLETED, self, "attach Evaluation before it")
        engine.add_event_handler(TrainEvents.VALIDATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for number, image in enumerate(self.draw(), start=1):
            self.writer.add_image(f"val_img_{number}", image, train_state(engine).epoch, dataformats="HWC")
