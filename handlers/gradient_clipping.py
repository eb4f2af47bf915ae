"""Limiting the norm of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import TrainEvents, require_event, train_state

__all__ = ["GradientClipping"]


class GradientClipping:
    """Scales the gradients of an optimizer step down where their common norm is above a limit.

    Acts on ``OPTIMIZER_STEP_STARTED``, behind :class:`FiniteGuard` (a rejected step is left alone), and on
    ``EPOCH_COMPLETED``, before whatever reads ``engine.state.metrics``; on every rank (gradients are averaged, so all
    clip alike). Nothing waits for the device before the epoch ends: then ``engine.state.metrics`` holds
    ``x/gradient_norm``, the mean over the epoch's steps of the norm before clipping. State: sum and count of the
    epoch's norms.

    Args:
        optimizer: its parameters' gradients are clipped, all together.
        max_norm: largest Euclidean norm; infinity only measures.
    """

    name = "x/gradient_norm"

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm should be positive, got {max_norm}")
        self.optimizer = optimizer
        self.max_norm = max_norm
        self._sum: torch.Tensor | None = None
        self._count = 0

    def attach(self, engine: Engine) -> None:
        event = TrainEvents.OPTIMIZER_STEP_STARTED
        require_event(engine, event, self, "attach GradientAccumulation before it")
        engine.add_event_handler(event, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.after_epoch)

    def __call__(self, engine: Engine) -> None:
        if train_state(engine).step_rejected:
            return
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm).detach()
        self._sum = norm if self._sum is None else self._sum.to(norm.device) + norm
        self._count += 1

    def after_epoch(self, engine: Engine) -> None:
        engine.state.metrics.pop(self.name, None)  # of an epoch without a step nothing is said
        if self._sum is not None:
            engine.state.metrics[self.name] = float(self._sum) / self._count
        self._sum, self._count = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Sum and number of the norms of the epoch so far."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sum, self._count = state["sum"], state["count"]
