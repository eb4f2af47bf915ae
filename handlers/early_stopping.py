"""Ending a run whose accuracy no longer improves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from ignite.engine import Engine
from yolov6_ignite.handlers.events import TrainEvents, require_event, train_state

__all__ = ["EarlyStopping"]

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends the run after ``patience`` evaluations in a row without an improvement.

    Acts on ``VALIDATION_COMPLETED``, on every rank: all have the same metrics, so they decide alike. The epoch's end
    goes through (history, checkpoints), then ``TERMINATE`` and ``COMPLETED`` fire: the run counts as finished and is
    stripped. ``engine.state.early_stop_reason`` says so. State: the best score and the evaluations since, so a resumed
    run knows that it has been ended (:attr:`stopped`); with a higher patience it goes on.

    Args:
        metric: its name in ``engine.state.validation``; higher is better.
        patience: evaluations in a row without an improvement that end the run.
        minimum_change: what a score must add to the best one to be an improvement.
    """

    # Ignite's EarlyStopping needs the engine when it is made, and its attach() resets what a resumed run has loaded.

    def __init__(self, metric: str = "val/mAP@0.50:0.95", *, patience: int, minimum_change: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience should be at least 1, got {patience}")
        if not minimum_change >= 0:
            raise ValueError(f"minimum_change should not be negative, got {minimum_change}")
        self.metric = metric
        self.patience = patience
        self.minimum_change = minimum_change
        self.best_score = -math.inf
        self.evaluations_since_best = 0
        self._engine: Engine | None = None

    @property
    def stopped(self) -> bool:
        """Whether the patience is used up."""
        return self.evaluations_since_best >= self.patience

    @property
    def reason(self) -> str:
        """One sentence for people, once stopped."""
        return (
            f"no improvement of {self.metric} over {self.best_score:.4f} in {self.evaluations_since_best} evaluations "
            f"in a row (train.patience: {self.patience})"
        )

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        require_event(engine, TrainEvents.VALIDATION_COMPLETED, self, "attach Evaluation before it")
        engine.add_event_handler(TrainEvents.VALIDATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        score = float(train_state(engine).validation[self.metric])
        if score > self.best_score + self.minimum_change:
            self.best_score, self.evaluations_since_best = score, 0
            return
        self.evaluations_since_best += 1  # of a score that is not a number as well
        if self.stopped:
            logger.info("stopping early after epoch %d: %s", train_state(engine).epoch, self.reason)
            train_state(engine).early_stop_reason = self.reason
            engine.terminate()

    def detach(self, engine: Engine) -> None:
        """Without it, a run that it has ended goes on."""
        train_state(engine).early_stop_reason = None

    def state_dict(self) -> dict[str, float | int]:
        """Best score (minus infinity before the first) and evaluations since."""
        return {"best_score": self.best_score, "evaluations_since_best": self.evaluations_since_best}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        self.best_score = float(state["best_score"])
        self.evaluations_since_best = int(state["evaluations_since_best"])
        if self._engine is not None:
            train_state(self._engine).early_stop_reason = self.reason if self.stopped else None
