"""Mean losses of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import train_state

__all__ = ["LossMeans"]


class LossMeans:
    """Means of the loss terms over an epoch, kept on the device until the epoch ends.

    Acts on ``ITERATION_COMPLETED`` and ``EPOCH_COMPLETED``, on every rank. The step's output is a mapping from term
    to 0-d tensor. Ranks' terms are parts of one sum, so they are added. At the epoch's end ``engine.state.losses``
    holds the means as numbers. ``running()`` reads the device and is for a logging step. State: sums and count.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: torch.Tensor | None = None
        self._count = 0

    def attach(self, engine: Engine) -> None:
        train_state(engine).running_losses = self.running
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.after_epoch)

    def detach(self, engine: Engine) -> None:
        """Without means there are no losses to record."""
        train_state(engine).losses, train_state(engine).running_losses = {}, dict

    def after_iteration(self, engine: Engine) -> None:
        items = train_state(engine).output
        self._names = list(items)
        terms = torch.stack([items[name].detach().float() for name in self._names])
        self._sums = terms if self._sums is None else self._sums.to(terms.device) + terms
        self._count += 1

    def after_epoch(self, engine: Engine) -> None:
        if self._sums is not None:
            total = self._sums
            if idist.get_world_size() > 1:
                total = cast(torch.Tensor, idist.all_reduce(total))
            train_state(engine).losses = dict(zip(self._names, (total / self._count).tolist(), strict=True))
        self._sums, self._count = None, 0

    def running(self) -> dict[str, float]:
        """Means so far of this rank; waits for the device."""
        if self._sums is None:
            return {}
        return dict(zip(self._names, (self._sums / self._count).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Sums over all ranks and count of the epoch so far; every rank calls it."""
        sums = self._sums
        if sums is not None and idist.get_world_size() > 1:
            sums = cast(torch.Tensor, idist.all_reduce(sums.clone()))
        return {"names": self._names, "sums": sums, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._names, self._sums, self._count = list(state["names"]), state["sums"], state["count"]
        if self._sums is not None and idist.get_rank() > 0:  # rank 0 goes on with the sum over all
            self._sums = torch.zeros_like(self._sums)
