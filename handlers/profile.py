"""Where a run's time goes: data, the step, and every handler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import EventsList
from yolov6_ignite.handlers.events import TrainEvents, train_state

__all__ = ["Profile"]

logger = logging.getLogger(__name__)

WAITING = "waiting for data"
STEP = "forward, loss, backward"
LIMIT = 0.2  # of the training time spent waiting, from which on the data is the bottleneck
BETWEEN_EPOCHS = {
    event.name
    for event in (
        Events.STARTED,
        Events.EPOCH_STARTED,
        Events.EPOCH_COMPLETED,
        Events.TERMINATE,
        Events.COMPLETED,
        TrainEvents.VALIDATION_STARTED,
        TrainEvents.VALIDATION_COMPLETED,
    )
}


@dataclass
class _Spent:
    calls: int = 0
    seconds: float = 0.0  # without what was called from inside


class Profile:
    """Times waiting for data, the step and every handler by its name and event, and says what limits the run.

    Attached before all others: whatever is attached to the engine afterwards is timed. Acts on ``EPOCH_COMPLETED``
    (one line in the log) and, with the table, on ``TERMINATE`` or ``COMPLETED``, so that the last checkpoint and strip
    are not in it; on rank 0. Costs about two microseconds a call. A time is a handler's own, without the handlers of
    events that it fires. Nothing waits for the device: on CUDA the step is also timed there, with events read once an
    epoch, and a handler that reads from the device (``finite_guard``) shows the time that the host waits in it for
    the step. Its stopwatches also listen on ``STARTED``, ``EPOCH_STARTED``, ``GET_BATCH_STARTED``,
    ``GET_BATCH_COMPLETED``, ``ITERATION_STARTED`` and ``ITERATION_COMPLETED``. Keeps no state.

    Args:
        handlers: by name, as they will be in the table; the engine's :class:`HandlerSet`.
        device: where the step runs.
        clock: seconds since whenever, never going back.
    """

    # Ignite's HandlersTimeProfiler knows classes, not names, wraps what there is when the run starts, so that nothing
    # can be replaced afterwards, counts a nested event's time twice, and keeps every single time for ever.

    def __init__(
        self,
        handlers: Mapping[str, Any],
        *,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.handlers = handlers
        self.on_cuda = device is not None and device.type == "cuda"
        self.clock = clock
        self.iterations = 0
        self._spent: dict[tuple[str, str], _Spent] = {}
        self._open: list[tuple[float, list[float]]] = []  # start, and seconds of what was called from inside
        self._run_started = 0.0
        self._device_events: list[tuple[Any, Any]] = []
        self._device_s = 0.0
        self._reported = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start_run)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_waiting)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._end_waiting)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.TERMINATE, self._end_run)
        engine.add_event_handler(Events.COMPLETED, self._end_run)
        add = engine.add_event_handler

        def add_timed(event: Any, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # a list of events comes back here with each of them
            timed = handler if isinstance(event, EventsList) else _Timed(self, event, handler)
            return add(event, timed, *args, **kwargs)

        vars(engine)["add_event_handler"] = add_timed

    def detach(self, engine: Engine) -> None:
        """What is attached from now on is not timed."""
        vars(engine).pop("add_event_handler", None)

    def verdict(self) -> str:
        """What limits training, as one line; evaluation and what else is done between epochs does not count."""
        training_s = sum(spent.seconds for (_, event), spent in self._spent.items() if event not in BETWEEN_EPOCHS)
        waiting = self._spent.get((WAITING, ""), _Spent()).seconds / training_s if training_s else 0.0
        if waiting >= LIMIT:
            return (
                f"data loading is the bottleneck: {waiting:.0%} of the training time is spent waiting; "
                "raise data.workers or use data.cache=ram"
            )
        return f"compute-bound: {waiting:.0%} of the training time is spent waiting for data"

    def table(self) -> str:
        """Milliseconds an iteration, share of the run's time and number of calls, the longest first."""
        total = self.clock() - self._run_started
        rows = sorted(self._spent.items(), key=lambda row: -row[1].seconds)
        rows.append((("everything else", ""), _Spent(0, total - sum(spent.seconds for _, spent in rows))))
        lines = [f"{self.iterations} iterations in {total:.1f} s", " ms/iteration   share     calls  handler, event"]
        for (name, event), spent in rows:
            ms, share = 1e3 * spent.seconds / max(self.iterations, 1), spent.seconds / total if total else 0.0
            lines.append(f"{ms:13.3f}  {share:6.1%}  {spent.calls or '':>8}  {name}{', ' if event else ''}{event}")
        if self.on_cuda:
            ms = 1e3 * self._device_s / max(self.iterations, 1)
            lines.append(f"{ms:13.3f}                    {STEP}, on the device")
        return "\n".join(lines)

    def open(self) -> None:
        """Begins a time; what begins before it ends is inside it."""
        self._open.append((self.clock(), []))

    def close(self, name: str, event: str) -> None:
        """Ends the time that was begun last, and gives it to a row of the table."""
        started, inside = self._open.pop()
        seconds = self.clock() - started
        if self._open:
            self._open[-1][1].append(seconds)
        spent = self._spent.setdefault((name, event), _Spent())
        spent.calls += 1
        spent.seconds += seconds - sum(inside)

    def _start_run(self, engine: Engine) -> None:
        self._run_started = self.clock()

    def _start_epoch(self, engine: Engine) -> None:
        self._open.clear()

    def _start_waiting(self, engine: Engine) -> None:
        self.open()

    def _end_waiting(self, engine: Engine) -> None:
        self.close(WAITING, "")

    def _start_step(self, engine: Engine) -> None:
        if self.on_cuda:
            self._device_events.append((_recorded_event(), None))
        self.open()

    def _end_step(self, engine: Engine) -> None:
        self.close(STEP, "")
        self.iterations += 1
        if self.on_cuda:
            self._device_events[-1] = (self._device_events[-1][0], _recorded_event())

    def _end_epoch(self, engine: Engine) -> None:
        self._read_device()
        logger.info("profile, epoch %d: %s", train_state(engine).epoch, self.verdict())

    def _end_run(self, engine: Engine) -> None:
        if self._reported:  # a run that is terminated can be completed, too
            return
        self._reported = True
        self._read_device()
        logger.info("profile: %s\n%s", self.table(), self.verdict())

    def _read_device(self) -> None:
        for start, end in self._device_events:
            if end is not None:
                end.synchronize()
                self._device_s += start.elapsed_time(end) / 1e3
        self._device_events.clear()


class _Timed:
    """A listener with a stopwatch; to the engine it is the listener itself."""

    def __init__(self, profile: Profile, event: Any, handler: Callable[..., Any]) -> None:
        self.__wrapped__ = handler  # its signature tells the engine what to pass
        self._profile = profile
        self._event = getattr(event, "name", str(event))
        self._name: str | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self._name is None:  # only now: a handler is named once it is attached
            self._name = self._find_name()
        self._profile.open()
        try:
            self.__wrapped__(*args, **kwargs)
        finally:
            self._profile.close(self._name, self._event)

    def __eq__(self, other: object) -> bool:
        return other is self or other == self.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def _find_name(self) -> str:
        owner = getattr(self.__wrapped__, "__self__", self.__wrapped__)
        named = (name for name, handler in self._profile.handlers.items() if handler is owner)
        return next(named, getattr(self.__wrapped__, "__qualname__", type(owner).__name__))


def _recorded_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
