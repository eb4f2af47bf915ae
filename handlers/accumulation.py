"""Gradient accumulation: when the optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from yolov6_ignite.handlers.events import TrainEvents, register_train_events, require_event, train_state

__all__ = ["GradientAccumulation"]


class GradientAccumulation:
    """Steps the optimizer once a window of micro-batches is full; gradients are summed, not averaged.

    Acts on ``event``, last of its listeners, on every rank. Unscales the gradients and fires
    ``OPTIMIZER_STEP_STARTED``; when a listener sets ``engine.state.step_rejected`` the window's gradients are
    dropped, otherwise the step is taken and ``OPTIMIZER_STEP_COMPLETED`` fires. The window is measured in iterations
    and goes on over an epoch's end; while one is open its gradients are part of the state.

    Args:
        optimizer: what steps.
        scaler: gradient scaler, disabled where the precision needs none.
        window_at: 0-based iteration to the number of micro-batches in a step.
        event: after which gradients are there; ``Events.ITERATION_COMPLETED`` on an engine whose step ends with
            ``backward()``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        window_at: Callable[[int], int],
        *,
        event: Any = TrainEvents.BACKWARD_COMPLETED,
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self.window_at = window_at
        self.event = event
        self.last_step = -1  # iteration of the last step

    def attach(self, engine: Engine) -> None:
        require_event(engine, self.event, self, "give event=Events.ITERATION_COMPLETED")
        register_train_events(engine, TrainEvents.OPTIMIZER_STEP_STARTED, TrainEvents.OPTIMIZER_STEP_COMPLETED)
        engine.add_event_handler(self.event, self)

    def __call__(self, engine: Engine) -> None:
        state = train_state(engine)
        iteration = state.iteration - 1
        if iteration - self.last_step < self.window_at(iteration):
            return
        self.last_step = iteration
        state.step_rejected = False
        state.optimizer_step += 1  # before the first event, so that both count alike
        self.scaler.unscale_(self.optimizer)
        engine.fire_event(TrainEvents.OPTIMIZER_STEP_STARTED)
        if not state.step_rejected:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if state.step_rejected:
            state.optimizer_step -= 1
        else:
            engine.fire_event(TrainEvents.OPTIMIZER_STEP_COMPLETED)

    def state_dict(self) -> dict[str, Any]:
        """Position of the window, and the gradients of the parameters while it is open (None where there is none)."""
        gradients = [p.grad for p in self._parameters()]
        return {"last_step": self.last_step, "gradients": gradients if any(g is not None for g in gradients) else []}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last_step = state["last_step"]
        if not state["gradients"]:
            return
        for parameter, gradient in zip(self._parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
