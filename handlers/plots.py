"""Plots of the last evaluation, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ignite.engine import Engine
from yolov6_ignite.handlers.events import TrainEvents, require_event

__all__ = ["EvaluationPlots"]


class EvaluationPlots:
    """Draws the plots of every evaluation; the last one's stay.

    Acts on ``VALIDATION_COMPLETED``, on rank 0. Keeps no state.

    Args:
        folder: where they go; it is made.
        draw: writes the plots into a folder.
    """

    def __init__(self, folder: Path, draw: Callable[[Path], None]) -> None:
        self.folder = folder
        self.draw = draw

    def attach(self, engine: Engine) -> None:
        require_event(engine, TrainEvents.VALIDATION_COMPLETED, self, "attach Evaluation before it")
        engine.add_event_handler(TrainEvents.VALIDATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.folder.mkdir(exist_ok=True)
        self.draw(self.folder)
