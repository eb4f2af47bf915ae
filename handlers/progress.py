"""What is seen while a run goes on."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TextIO

from ignite.engine import Engine, Events
from tqdm import tqdm
from yolov6_ignite.handlers.events import TrainState, train_state

__all__ = ["Progress"]

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A bar on a terminal, a line every half minute elsewhere, and a line in the log after every epoch.

    Acts on ``EPOCH_STARTED``, ``ITERATION_COMPLETED``, ``EPOCH_COMPLETED`` and ``COMPLETED``, on rank 0. Every
    ``interval`` iterations it reads the running losses from the device. Keeps no state.

    Args:
        interval: iterations between updates.
        stream: where the bar goes; none is drawn where it is not a terminal, or where the package logs less than INFO.
    """

    def __init__(self, interval: int = 10, stream: TextIO | None = None) -> None:
        self.interval = interval
        self.stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._run_started = self._epoch_started = self._last_line = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start_run)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.TERMINATE, self._close)
        engine.add_event_handler(Events.COMPLETED, self._end_run)

    def _start_run(self, engine: Engine) -> None:
        self._run_started = time.perf_counter()

    def _start_epoch(self, engine: Engine) -> None:
        self._epoch_started = self._last_line = time.perf_counter()
        if self.stream.isatty() and logging.getLogger("yolov6_ignite").level <= logging.INFO:
            state = train_state(engine)
            self._bar = tqdm(
                total=state.epoch_length,
                initial=state.iteration - (state.epoch - 1) * state.epoch_length,
                desc=f"epoch {state.epoch}/{state.max_epochs}",
                file=self.stream,
                dynamic_ncols=True,
                mininterval=0,  # it is updated every few iterations only
                leave=False,
            )

    def _update(self, engine: Engine) -> None:
        state = train_state(engine)
        if self._bar is None:
            self._log_now_and_then(state)
            return
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in state.running_losses().items()}, refresh=False)
        self._bar.update(state.iteration - (state.epoch - 1) * state.epoch_length - self._bar.n)

    def _log_now_and_then(self, state: TrainState) -> None:
        now = time.perf_counter()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        done = state.iteration - (state.epoch - 1) * state.epoch_length
        parts = [f"epoch {state.epoch}/{state.max_epochs}, iteration {done}/{state.epoch_length}"]
        parts += [f"{name} {value:.4f}" for name, value in state.running_losses().items()]
        logger.info(" | ".join(parts))

    def _end_epoch(self, engine: Engine) -> None:
        self._close(engine)
        row = (train_state(engine).history or [{}])[-1]
        parts = [f"epoch {train_state(engine).epoch}/{train_state(engine).max_epochs}"]
        parts += [
            f"{name.removeprefix('train/')} {value:.4f}" for name, value in row.items() if name.startswith("train/")
        ]
        parts += [
            f"{name.removeprefix('val/')} {row[name]:.4f}"
            for name in ("val/mAP@0.5", "val/mAP@0.50:0.95")
            if name in row
        ]
        parts += [f"{name} {value:.4f}" for name, value in row.items() if re.fullmatch(r"val/.*_loss", name)]
        parts += [
            *(f"lr {row[name]:.5f}" for name in ("x/lr1",) if name in row),
            f"{time.perf_counter() - self._epoch_started:.1f} s",
        ]
        logger.info(" | ".join(parts))

    def _end_run(self, engine: Engine) -> None:
        logger.info("training took %.3f hours", (time.perf_counter() - self._run_started) / 3600)

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
