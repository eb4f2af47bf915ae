"""How good the teacher of a distillation is, before anything is learnt from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import train_state

__all__ = ["TeacherAccuracy"]

logger = logging.getLogger(__name__)


class TeacherAccuracy:
    """Evaluates the teacher once and logs its accuracy.

    Acts on ``STARTED`` of a run that is not resumed, on every rank. Keeps no state.

    Args:
        evaluate: gives the teacher's metrics by name, equal on every rank.
    """

    def __init__(self, evaluate: Callable[[], Mapping[str, float]]) -> None:
        self.evaluate = evaluate

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if train_state(engine).iteration == 0:
            metrics = self.evaluate()
            logger.info("teacher: %s", " | ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
