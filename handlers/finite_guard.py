"""Non-finite gradients: the step is dropped, and too many of them in a row end the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from yolov6_ignite.handlers.events import StopRequest, TrainEvents, require_event, train_state

__all__ = ["FiniteGuard"]

logger = logging.getLogger(__name__)


class FiniteGuard:
    """Checks the gradients before every optimizer step.

    Acts on ``OPTIMIZER_STEP_STARTED``, first of its listeners, on every rank (gradients are averaged, so all ranks
    decide alike). Costs one reduction and one flag read from the device. When a gradient is not finite the step is
    rejected and non-finite floating buffers (batch norm statistics) are restored from ``state.ema_model``. After
    ``max_bad_steps`` in a row the batch is kept and a stop is requested. With a gradient scaler a few rejected
    steps are its normal search for a scale.

    Args:
        model: the model in training, not wrapped.
        optimizer: its parameters' gradients are checked.
        max_bad_steps: rejected steps in a row that end the run.
        keep_batch: saves this rank's batch and returns where, for the message.
        exit_code: code of the stop request.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_bad_steps: int,
        keep_batch: Callable[[Any], str],
        exit_code: int,
    ) -> None:
        if max_bad_steps < 1:
            raise ValueError(f"max_bad_steps should be at least 1, got {max_bad_steps}")
        self.model = model
        self.optimizer = optimizer
        self.max_bad_steps = max_bad_steps
        self.keep_batch = keep_batch
        self.exit_code = exit_code
        self.bad_steps = 0
        self.bad_steps_in_a_row = 0

    def attach(self, engine: Engine) -> None:
        event = TrainEvents.OPTIMIZER_STEP_STARTED
        require_event(engine, event, self, "attach GradientAccumulation before it")
        engine.add_event_handler(event, self)

    def __call__(self, engine: Engine) -> None:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        largest = torch.stack(torch._foreach_norm(gradients, ord=float("inf"))) if gradients else torch.zeros(1)
        if bool(torch.isfinite(largest).all()):
            self.bad_steps_in_a_row = 0
            return
        train_state(engine).step_rejected = True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        self._restore_buffers(train_state(engine).ema_model or self.model)
        logger.warning(
            "iteration %d: gradients are not finite; step dropped (%d in a row, %d in all)",
            train_state(engine).iteration,
            self.bad_steps_in_a_row,
            self.bad_steps,
        )
        if self.bad_steps_in_a_row >= self.max_bad_steps and train_state(engine).stop_request is None:
            where = self.keep_batch(train_state(engine).batch)
            train_state(engine).stop_request = StopRequest(
                self.exit_code,
                f"gradients were not finite for {self.bad_steps_in_a_row} optimizer steps in a row "
                f"(train.max_bad_steps); the last batch is in {where}; lower solver.lr0, use train.precision=fp32 "
                "or look at that batch",
            )

    def state_dict(self) -> dict[str, int]:
        """Numbers of rejected steps."""
        return {"bad_steps": self.bad_steps, "bad_steps_in_a_row": self.bad_steps_in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.bad_steps = state["bad_steps"]
        self.bad_steps_in_a_row = state["bad_steps_in_a_row"]

    @torch.no_grad()
    def _restore_buffers(self, ema_model: nn.Module) -> None:
        averaged = dict(ema_model.named_buffers())
        for name, buffer in self.model.named_buffers():
            if buffer.is_floating_point() and name in averaged:
                buffer.copy_(torch.where(torch.isfinite(buffer), buffer, averaged[name]))
