"""Stopping a run when its time is up, so that it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable

from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import StopRequest, train_state

__all__ = ["TimeLimit"]


class TimeLimit:
    """Requests a stop once the run has taken a number of hours; :class:`StopOnRequest` saves and ends it.

    Acts on ``STARTED``, ``ITERATION_COMPLETED`` and ``EPOCH_COMPLETED`` (an evaluation takes time), before
    :class:`StopOnRequest`; on rank 0, whose request the others follow. A run that is through is not stopped any more.
    Costs one reading of the clock. Keeps no state: the hours are those of this process, a resumed run has them anew.

    Args:
        hours: the limit.
        exit_code: code of the stop request.
        clock: seconds since whenever, never going back.
    """

    # Ignite's TimeLimit counts from its making, and terminates at once: on one rank only, and as if it had finished.

    def __init__(self, hours: float, *, exit_code: int, clock: Callable[[], float] = time.monotonic) -> None:
        if not hours > 0:
            raise ValueError(f"hours should be positive, got {hours}")
        self.hours = hours
        self.exit_code = exit_code
        self.clock = clock
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = train_state(engine)
        is_through = state.iteration >= state.epoch_length * state.max_epochs
        if is_through or state.stop_request is not None or self.clock() - self._started < self.hours * 3600:
            return
        state.stop_request = StopRequest(
            self.exit_code, f"train.time_limit of {self.hours:g} hours is up; resume with train.resume=auto"
        )

    def _start(self, engine: Engine) -> None:
        self._started = self.clock()
