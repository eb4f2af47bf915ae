"""Evaluation at an interval, and more often near the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from yolov6_ignite.handlers.events import TrainEvents, register_train_events, require_event, train_state

__all__ = ["EmaBuffersFromRankZero", "Evaluation", "evaluated_epochs"]

HEAVY_INTERVAL = 3


def evaluated_epochs(epochs: int, *, interval: int, heavy_range: int, final_only: bool = False) -> list[int]:
    """1-based epochs after which a run of ``epochs`` evaluates (specification, training 8)."""

    def is_evaluated(epoch: int) -> bool:
        left = epochs - epoch
        every = interval if left >= heavy_range else min(HEAVY_INTERVAL, interval)
        return left == 0 or (not final_only and epoch % every == 0)

    return [epoch for epoch in range(1, epochs + 1) if is_evaluated(epoch)]


class Evaluation:
    """Evaluates ``engine.state.ema_model`` and fires the validation events around it.

    Acts on ``EPOCH_COMPLETED`` of the evaluated epochs, on every rank. Afterwards ``engine.state.validation`` holds
    the metrics and the ``epoch`` that they are of. State: those metrics.

    Args:
        evaluate: model to metrics by name, equal on every rank.
        interval: epochs between evaluations.
        heavy_range: in the last so many epochs the interval is at most 3.
        final_only: only after the last epoch.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        *,
        interval: int,
        heavy_range: int,
        final_only: bool = False,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval should be at least 1, got {interval}")
        self.evaluate = evaluate
        self.interval = interval
        self.heavy_range = heavy_range
        self.final_only = final_only
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        register_train_events(engine, TrainEvents.VALIDATION_STARTED, TrainEvents.VALIDATION_COMPLETED)
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self._is_evaluated), self)

    def __call__(self, engine: Engine) -> None:
        engine.fire_event(TrainEvents.VALIDATION_STARTED)
        model = train_state(engine).ema_model
        if model is None:
            raise RuntimeError("engine.state.ema_model is not set: attach ModelEMA, or put the model there yourself")
        metrics = self.evaluate(model)
        train_state(engine).validation = {"epoch": train_state(engine).epoch, **metrics}
        engine.fire_event(TrainEvents.VALIDATION_COMPLETED)

    def state_dict(self) -> dict[str, Any]:
        """Metrics of the last evaluation."""
        return dict(train_state(self._engine).validation) if self._engine else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._engine:
            train_state(self._engine).validation = dict(state)

    def _is_evaluated(self, engine: Engine, epoch: int) -> bool:
        return epoch in evaluated_epochs(
            train_state(engine).max_epochs,
            interval=self.interval,
            heavy_range=self.heavy_range,
            final_only=self.final_only,
        )


class EmaBuffersFromRankZero:
    """Makes the averaged batch norm statistics those of rank 0, so that every rank evaluates the same model.

    Acts on ``VALIDATION_STARTED``, on every rank: one broadcast. Keeps no state.
    """

    def attach(self, engine: Engine) -> None:
        require_event(engine, TrainEvents.VALIDATION_STARTED, self, "attach Evaluation before it")
        engine.add_event_handler(TrainEvents.VALIDATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        model = train_state(engine).ema_model
        buffers = [] if model is None else [b for b in model.buffers() if b.is_floating_point()]
        if idist.get_world_size() == 1 or not buffers:
            return
        joined = cast(torch.Tensor, idist.broadcast(torch.cat([b.flatten() for b in buffers]), src=0))
        for buffer, values in zip(buffers, joined.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))
