"""Learning rate, momentum and accumulation as one pure function of the iteration (specification, training 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from yolov6_ignite.config import Config

__all__ = ["DECAYS", "Schedule", "StepSettings", "build_schedule"]

BIAS_GROUP = 2

DECAYS: Mapping[str, Callable[[float], float]] = {
    "Cosine": lambda progress: (1.0 - math.cos(math.pi * progress)) / 2.0,
    "Linear": lambda progress: progress,
    "Constant": lambda progress: 0.0,
}
"""How much of the way from 1 to `lrf` the learning rate has gone, by the part of the run that is over (0..1)."""


class StepSettings(NamedTuple):
    """What one iteration trains with.

    Attributes:
        lr: learning rate of the groups (batch norm weights, other weights, biases).
        momentum: SGD's momentum.
        accumulate: micro-batches in an optimizer step.
    """

    lr: tuple[float, float, float]
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """Warm-up and epoch schedule of a run.

    Attributes:
        epochs: length of the run.
        epoch_length: iterations in an epoch.
        batch_size: images in a global batch.
        nominal_batch_size: images that gradients are accumulated up to.
        lr0: initial learning rate, rescaled to the batch (:func:`build_schedule`).
        lrf: final learning rate as a fraction of ``lr0``.
        decay: one of :data:`DECAYS` by its name, or another function of the kind.
        momentum: SGD's momentum after warm-up.
        warmup_iterations: iterations up to and including which warm-up acts.
        warmup_momentum: momentum at iteration 0.
        warmup_bias_lr: learning rate of the biases at iteration 0; the others start at 0.
    """

    epochs: int
    epoch_length: int
    batch_size: int
    nominal_batch_size: int
    lr0: float
    lrf: float
    decay: str | Callable[[float], float]
    momentum: float
    warmup_iterations: int
    warmup_momentum: float
    warmup_bias_lr: float

    def epoch_factor(self, epoch: int) -> float:
        """The schedule's factor on ``lr0`` in the 0-based ``epoch``."""
        decay = DECAYS[self.decay] if isinstance(self.decay, str) else self.decay
        return 1.0 + (self.lrf - 1.0) * decay(epoch / self.epochs)

    def at(self, iteration: int) -> StepSettings:
        """Settings of the 0-based global ``iteration`` (micro-batch, not optimizer step).

        Unlike the reference, an epoch after warm-up uses its own value of the schedule, not the one of the
        epoch before.
        """
        lr = self.lr0 * self.epoch_factor(iteration // self.epoch_length)
        window = self.nominal_batch_size / self.batch_size
        if iteration > self.warmup_iterations:
            return StepSettings((lr, lr, lr), self.momentum, max(1, round(window)))
        done = iteration / self.warmup_iterations if self.warmup_iterations else 1.0
        starts = [self.warmup_bias_lr if group == BIAS_GROUP else 0.0 for group in range(3)]
        bn, weight, bias = (start + done * (lr - start) for start in starts)
        momentum = self.warmup_momentum + done * (self.momentum - self.warmup_momentum)
        return StepSettings((bn, weight, bias), momentum, max(1, round(1.0 + done * (window - 1.0))))


def build_schedule(config: Config, epoch_length: int) -> Schedule:
    """The schedule of a run with ``epoch_length`` iterations an epoch.

    ``lr0`` is for ``reference_world_size`` devices with ``reference_device_batch`` images each and is scaled
    linearly to the batch (specification, training 4.3). Quantisation-aware training has no warm-up (training 4.1): it
    goes on from where training was.
    """
    solver = config.solver
    warmup_iterations = max(round(solver.warmup_epochs * epoch_length), solver.warmup_min_iterations)
    reference_batch = solver.reference_world_size * solver.reference_device_batch
    return Schedule(
        epochs=config.train.epochs,
        epoch_length=epoch_length,
        batch_size=config.data.images_per_batch,
        nominal_batch_size=solver.nominal_batch_size,
        lr0=solver.lr0 * config.data.images_per_batch / reference_batch,
        lrf=solver.lrf,
        decay=solver.lr_scheduler,
        momentum=solver.momentum,
        warmup_iterations=0 if config.quant.mode == "qat" else warmup_iterations,
        warmup_momentum=solver.warmup_momentum,
        warmup_bias_lr=solver.warmup_bias_lr,
    )
