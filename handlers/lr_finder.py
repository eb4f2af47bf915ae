"""Finding a learning rate: train briefly while it rises, and see where the loss falls best (arXiv 1506.01186)."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from yolov6_ignite.handlers.accumulation import GradientAccumulation
from yolov6_ignite.handlers.events import train_state

__all__ = ["LearningRateCurve", "LearningRateFinder", "find_learning_rate"]

logger = logging.getLogger(__name__)

BLOCK = 10  # optimizer steps between looks at the losses
DIVERGED = 4.0  # times the best block's loss


class _Stateful(Protocol):
    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class LearningRateCurve:
    """What a search has seen, one entry an optimizer step, up to where the loss diverged.

    Attributes:
        learning_rates: rising, as values of ``solver.lr0``.
        losses: of the step's batch.
    """

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]

    def smoothed(self, width: float = 3.0) -> list[float]:
        """The losses averaged over their neighbours on both sides, so that nothing is late.

        Losses above those at the start count as high as they, or one that diverged would hide the steps before it.

        Args:
            width: standard deviation of the Gaussian weights in steps.
        """
        steps = torch.arange(len(self.losses), dtype=torch.float64)
        weights = torch.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
        losses = torch.tensor(self.losses, dtype=torch.float64).clamp(max=max(self.losses[:BLOCK], default=0.0))
        smooth: list[float] = ((weights @ losses) / weights.sum(1)).tolist()
        return smooth

    def suggestion(self) -> float:
        """The learning rate at which the loss falls fastest, at most a tenth of the one at which it is lowest.

        Raises:
            ValueError: the loss falls nowhere.
        """
        losses = self.smoothed()
        lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
        if lowest < 2:
            raise ValueError(
                f"the loss falls at none of the {len(losses)} learning rates tried; begin with a lower one"
            )
        slopes = [losses[step + 1] - losses[step - 1] for step in range(1, lowest)]
        steepest = self.learning_rates[1 + min(range(len(slopes)), key=slopes.__getitem__)]
        return min(steepest, self.learning_rates[lowest] / 10)


class LearningRateFinder:
    """Raises the learning rate of all groups from step to step, by a constant factor, and keeps the losses.

    Acts on ``ITERATION_STARTED`` and ``ITERATION_COMPLETED``, in place of a learning-rate policy; ends the run after
    the last step or when the loss has diverged. Reads the device every few steps. Keeps no state.

    Args:
        optimizer: its groups are changed in place.
        lowest: learning rate of the first step.
        highest: learning rate of the last step.
        steps: optimizer steps.
        window: micro-batches in a step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, lowest: float, highest: float, steps: int = 100, window: int = 1
    ) -> None:
        if not 0 < lowest < highest:
            raise ValueError(f"expected 0 < lowest < highest, got {lowest} and {highest}")
        if steps < 2 or window < 1:
            raise ValueError(f"steps should be at least 2 and window at least 1, got {steps} and {window}")
        self.optimizer = optimizer
        self.steps = steps
        self.window = window
        self.learning_rates = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
        self._losses: list[Tensor] = []  # one a micro-batch, on the device
        self._best_block = math.inf

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.before_iteration)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.after_iteration)

    def before_iteration(self, engine: Engine) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rates[len(self._losses) // self.window]

    def after_iteration(self, engine: Engine) -> None:
        terms = train_state(engine).output.values()
        self._losses.append(torch.stack([term.detach().float() for term in terms]).sum())
        done = len(self._losses)
        if done == self.steps * self.window or (done % (BLOCK * self.window) == 0 and self._has_diverged()):
            engine.terminate()

    def losses(self) -> list[float]:
        """Mean loss of every step so far; waits for the device."""
        whole = len(self._losses) // self.window * self.window
        if not whole:
            return []
        means: list[float] = torch.stack(self._losses[:whole]).view(-1, self.window).mean(1).tolist()
        return means

    def _has_diverged(self) -> bool:
        block = float(torch.stack(self._losses[-BLOCK * self.window :]).mean())
        self._best_block = min(self._best_block, block)
        return not block <= DIVERGED * self._best_block  # what is not a number has diverged, too


def find_learning_rate(
    engine: Engine,
    data: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    restore: Sequence[_Stateful],
    per_lr0: float = 1.0,
    window: int = 1,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 100,
) -> LearningRateCurve:
    """Searches a value for ``solver.lr0``, logs it, and leaves everything as it was.

    Ignite's FastaiLRFinder lets all attached handlers act (checkpoints, evaluation, the learning-rate policy), reads
    the device every step, knows no accumulation and smooths only backwards, which shifts the curve to higher rates.

    Args:
        engine: one of its own for the search, with the training step and no other handler that changes the run
            (``create_trainer``); it cannot be used afterwards.
        data: training batches with a length; read as often as needed.
        optimizer: what steps.
        scaler: gradient scaler, disabled where the precision needs none.
        restore: what else the steps change, such as the model; put back afterwards, like optimizer and scaler.
        per_lr0: learning rate of the optimizer for ``solver.lr0`` = 1: images in a batch /
            (``solver.reference_world_size`` * ``solver.reference_device_batch``).
        window: micro-batches in an optimizer step, as in training after warm-up.
        lowest: first value of ``solver.lr0``.
        highest: last value of ``solver.lr0``.
        steps: optimizer steps.

    Raises:
        ValueError: the loss falls nowhere.
        RuntimeError: there are several ranks; the search is for one.
    """
    if idist.get_world_size() > 1:
        raise RuntimeError("the learning rate is searched on one rank; the value found is good for any number")
    finder = LearningRateFinder(
        optimizer, lowest=lowest * per_lr0, highest=highest * per_lr0, steps=steps, window=window
    )
    finder.attach(engine)
    GradientAccumulation(optimizer, scaler, lambda iteration: window).attach(engine)
    kept = [(part, copy.deepcopy(part.state_dict())) for part in (*restore, optimizer)]
    kept_scaler: Mapping[str, Any] = scaler.state_dict()
    epoch_length = len(data)  # type: ignore[arg-type]
    try:
        engine.run(data, max_epochs=math.ceil(steps * window / epoch_length), epoch_length=epoch_length)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for part, state in kept:
            part.load_state_dict(state)
        if kept_scaler:
            scaler.load_state_dict(dict(kept_scaler))
    losses = finder.losses()
    finite = next((step for step, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    curve = LearningRateCurve(tuple(lr / per_lr0 for lr in finder.learning_rates[:finite]), tuple(losses[:finite]))
    logger.info(
        "learning rate search, %d steps from %.1e to %.1e: try solver.lr0=%.2g",
        len(curve.losses),
        lowest,
        curve.learning_rates[-1] if curve.learning_rates else lowest,
        curve.suggestion(),
    )
    return curve
