"""Stopping a run so that it can be resumed: on a signal, or because a handler asks for it."""

from __future__ import annotations

import functools
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import StopRequest, is_complete, train_state

__all__ = ["StopOnRequest"]

logger = logging.getLogger(__name__)


class StopOnRequest:
    """Ends the run when ``engine.state.stop_request`` is set, a signal has come or a handler has called ``terminate``.

    Acts on ``ITERATION_COMPLETED`` and, for a request in an epoch's last iteration, on ``EPOCH_COMPLETED``, last of
    the listeners, and on ``EPOCH_STARTED``, on every rank; without ``COMPLETED``, so nothing is stripped. While it is
    attached, ``engine.terminate()`` is such a request, acted on at the next of these events (nothing is left to stop
    in a run's last iteration): Ignite would end the run at once, also between the counting of an iteration and its
    step, or before an epoch's end. ``STARTED`` begins to catch signals, until ``engine.state.exit_stack`` is closed.
    On several ranks they agree every ``agree_every`` iterations: one small all-reduce. Keeps no state.

    Args:
        exit_code: of a stop by SIGTERM, SIGINT or ``terminate``. Another signal, a second or more later, ends the
            process at once.
        agree_every: iterations between the ranks' agreements.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, *, exit_code: int, agree_every: int = 10) -> None:
        self.exit_code = exit_code
        self.agree_every = agree_every
        self._signal: int | None = None
        self._signalled_at = 0.0

    def attach(self, engine: Engine) -> None:
        self._terminate = functools.partial(type(engine).terminate, engine)
        vars(engine)["terminate"] = functools.partial(self._requested, engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._stop_if_asked)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_if_asked)

    def detach(self, engine: Engine) -> None:
        """Without it ``terminate`` is Ignite's own."""
        vars(engine).pop("terminate", None)

    def _start(self, engine: Engine) -> None:
        train_state(engine).exit_stack.enter_context(self._listening())

    def _requested(self, engine: Engine, skip_completed: bool = False) -> None:
        state = train_state(engine)
        if state.early_stop_reason is not None:
            self._terminate(skip_completed)
        elif state.stop_request is None and not is_complete(state):
            reason = "a handler called engine.terminate(); resume with train.resume=auto"
            state.stop_request = StopRequest(self.exit_code, reason)
            inside = engine.last_event_name == Events.ITERATION_COMPLETED and state.iteration % state.epoch_length != 0
            if idist.get_world_size() == 1 and (inside or engine.last_event_name == Events.EPOCH_COMPLETED):
                self._stop_if_asked(engine)  # by a listener that is attached behind this one

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Catches the signals while a run goes on; only the main thread can."""
        try:
            previous = {number: signal.signal(number, self._on_signal) for number in self.signals}
        except ValueError:
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def after_iteration(self, engine: Engine) -> None:
        iteration, epoch_length = train_state(engine).iteration, train_state(engine).epoch_length
        if iteration % epoch_length == 0:
            return  # the epoch's end comes first: Ignite would leave it out of a resumed run
        if idist.get_world_size() == 1 or iteration % self.agree_every == 0:
            self._stop_if_asked(engine)

    def _stop_if_asked(self, engine: Engine) -> None:
        state = train_state(engine)
        if state.stop_request is None and self._signal is not None:
            name = signal.Signals(self._signal).name
            state.stop_request = StopRequest(self.exit_code, f"{name} received; resume with train.resume=auto")
        if idist.get_world_size() > 1:
            code = 0 if state.stop_request is None else state.stop_request.exit_code
            agreed = int(idist.all_reduce(torch.tensor(code, device=idist.device()), "MAX"))
            if agreed and state.stop_request is None:
                state.stop_request = StopRequest(agreed, "another rank asked to stop")
        if state.stop_request is not None:
            logger.warning("stopping: %s", state.stop_request.reason)
            self._terminate(skip_completed=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is not None and now - self._signalled_at > 1.0:  # one stop can arrive by two ways
            raise KeyboardInterrupt
        self._signal, self._signalled_at = number, now
