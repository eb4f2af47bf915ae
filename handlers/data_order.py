"""Which data an epoch sees: the sampler's epoch, and the loader without strong augmentation at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import train_state

__all__ = ["AugmentationCutoff", "SamplerEpoch"]

logger = logging.getLogger(__name__)


class AugmentationCutoff:
    """Swaps the training loader for one without mosaic and mixup for the last epochs.

    Acts on ``EPOCH_STARTED``, first of its listeners, on every rank; never inside an epoch: a run resumed behind
    the cutoff is given the right loader. Costs the start of new workers, once. Keeps no state.

    Args:
        first_epoch: 1-based epoch from which the other loader is used.
        make_loader: makes it; of the same length, with a ``batch_sampler`` that has ``set_epoch``.
    """

    def __init__(self, first_epoch: int, make_loader: Callable[[], Any]) -> None:
        self.first_epoch = first_epoch
        self.make_loader = make_loader

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED(event_filter=self._is_cutoff), self)

    def __call__(self, engine: Engine) -> None:
        loader = self.make_loader()
        if len(loader) != train_state(engine).epoch_length:
            raise RuntimeError(
                f"the loader after the cutoff has {len(loader)} batches, not {train_state(engine).epoch_length}"
            )
        loader.batch_sampler.set_epoch(train_state(engine).epoch - 1)  # first: a plain loader reads at once
        engine.set_data(loader)
        logger.info("epoch %d: strong augmentation (mosaic, mixup) is off from here", train_state(engine).epoch)

    def _is_cutoff(self, engine: Engine, epoch: int) -> bool:
        at_its_start = train_state(engine).iteration == (epoch - 1) * train_state(engine).epoch_length
        return epoch == self.first_epoch and at_its_start


class SamplerEpoch:
    """Tells the loader's batch sampler the epoch, and the step to start at after a resume inside one.

    Acts on ``EPOCH_STARTED``, on every rank. A loader of another kind, whose ``sampler`` has ``set_epoch(epoch)`` as
    torch's ``DistributedSampler`` has, is told the epoch; one without is left alone. Keeps no state.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        state = train_state(engine)
        epoch = state.epoch - 1
        batch_sampler = getattr(state.dataloader, "batch_sampler", None)
        if batch_sampler is not None and hasattr(batch_sampler, "set_epoch"):
            batch_sampler.set_epoch(epoch, start_step=state.iteration - epoch * state.epoch_length)
            return
        sampler = getattr(state.dataloader, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
