"""Learning rate and momentum of every iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import train_state

__all__ = ["LearningRatePolicy"]


class _Settings(Protocol):
    @property
    def lr(self) -> Sequence[float]: ...

    @property
    def momentum(self) -> float: ...


class LearningRatePolicy:
    """Sets each parameter group's learning rate, and the momentum where a group has one.

    Acts on ``ITERATION_STARTED``, on every rank; costs microseconds; keeps no state: warm-up and schedule are a
    pure function of the iteration, so a resumed run continues exactly.

    Args:
        optimizer: its groups are changed in place.
        settings_at: 0-based iteration to an object with ``lr`` (one a group) and ``momentum``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings_at: Callable[[int], _Settings]) -> None:
        self.optimizer = optimizer
        self.settings_at = settings_at

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        settings = self.settings_at(train_state(engine).iteration - 1)
        for group, lr in zip(self.optimizer.param_groups, settings.lr, strict=True):
            group["lr"] = lr
            if "momentum" in group:
                group["momentum"] = settings.momentum
