"""Exponential moving average of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from yolov6_ignite.handlers.events import TrainEvents, require_event, train_state

__all__ = ["ModelEMA", "ema_decay"]


def ema_decay(updates: int, decay: float = 0.9999, ramp: float = 2000.0) -> float:
    """Decay of the ``updates``-th update, counted from 1 (specification, training 6)."""
    return decay * (1.0 - math.exp(-updates / ramp))


class ModelEMA:
    """Averages every floating tensor of the model's state: parameters and buffers.

    Acts on ``event``, on every rank; one fused lerp over all tensors. Puts the averaged copy (eval
    mode, no gradients) on ``engine.state.ema_model``, where evaluation, checkpoints and strip find it. State: the
    number of updates; the averaged weights are saved from ``engine.state.ema_model``.

    Args:
        model: the model in training, not wrapped.
        decay: decay after the ramp, in 0..1.
        ramp: updates over which the decay rises.
        event: after which the weights have changed; on an engine without accumulation ``Events.ITERATION_COMPLETED``.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9999,
        ramp: float = 2000.0,
        *,
        event: Any = TrainEvents.OPTIMIZER_STEP_COMPLETED,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay should be in [0, 1), got {decay}")
        self.decay = decay
        self.ramp = ramp
        self.event = event
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._live_model = model
        averaged, current = self.model.state_dict(), model.state_dict()
        names = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
        self._averaged = [averaged[name] for name in names]
        self._current = [current[name] for name in names]

    def attach(self, engine: Engine) -> None:
        require_event(engine, self.event, self, "give event=Events.ITERATION_COMPLETED")
        train_state(engine).ema_model = self.model
        engine.add_event_handler(self.event, self)

    def detach(self, engine: Engine) -> None:
        """Without an average, the model itself is evaluated and stripped."""
        train_state(engine).ema_model = self._live_model

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        self.updates += 1
        torch._foreach_lerp_(self._averaged, self._current, 1.0 - ema_decay(self.updates, self.decay, self.ramp))

    def state_dict(self) -> dict[str, int]:
        """Number of updates."""
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.updates = state["updates"]
