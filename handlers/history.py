"""One row of numbers an epoch: kept in the checkpoint, written as metrics.csv."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import TrainEvents, register_train_events, train_state

__all__ = ["History", "Timing"]

logger = logging.getLogger(__name__)


class History:
    """Collects an epoch's mean losses, accuracy and learning rates.

    Acts on ``VALIDATION_COMPLETED`` (so that a best checkpoint holds its own row) and ``EPOCH_COMPLETED``, on every
    rank; rank 0 writes. Every number in ``engine.state.metrics`` is a column; ``EPOCH_STARTED`` empties them for the
    next row. ``metrics.csv`` is rewritten whole from the rows, which are the state; it never holds a time, so a
    resumed run's file equals an uninterrupted one's. Also on ``engine.state.history``.

    Args:
        path: the CSV file, or None to keep the rows only.
        optimizer: whose learning rates are noted as ``x/lr0``, ``x/lr1``, ...
        write: ``(path, text)`` written atomically.
    """

    def __init__(self, path: Path | None, optimizer: torch.optim.Optimizer, write: Callable[[Path, str], None]) -> None:
        self.path = path
        self.optimizer = optimizer
        self.write = write
        self.rows: list[dict[str, float]] = []
        self._left_out: set[str] = set()

    def attach(self, engine: Engine) -> None:
        register_train_events(engine, TrainEvents.VALIDATION_COMPLETED)
        train_state(engine).history = self.rows
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
        engine.add_event_handler(TrainEvents.VALIDATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def detach(self, engine: Engine) -> None:
        """Without it, nothing is recorded from now on."""
        train_state(engine).history = []

    def __call__(self, engine: Engine) -> None:
        state = train_state(engine)
        row: dict[str, float] = {"epoch": state.epoch}
        row |= {f"train/{name}_loss": value for name, value in state.losses.items()}
        if state.validation.get("epoch") == state.epoch:
            row |= {name: value for name, value in state.validation.items() if name != "epoch"}
        row |= {f"x/lr{index}": group["lr"] for index, group in enumerate(self.optimizer.param_groups)}
        row |= self._numbers(engine.state.metrics)
        self.rows[:] = [kept for kept in self.rows if kept["epoch"] < state.epoch] + [row]
        if self.path is not None:
            self.write(self.path, self.to_csv())

    def _forget(self, engine: Engine) -> None:
        engine.state.metrics.clear()  # a number that is not of every epoch must not be repeated

    def _numbers(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        numbers = {}
        for name, value in metrics.items():
            try:
                numbers[name] = value if type(value) in (int, float) else float(value)
            except (TypeError, ValueError):
                if name not in self._left_out:
                    logger.warning("engine.state.metrics[%r] is not one number, so metrics.csv leaves it out", name)
                self._left_out.add(name)
        return numbers

    def to_csv(self) -> str:
        """The rows as CSV; a column stands where the first row that has it puts it; a missing value is empty."""
        columns: list[str] = []
        for row in self.rows:
            previous = -1
            for name in row:
                if name not in columns:
                    columns.insert(previous + 1, name)
                previous = columns.index(name)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows[:] = [dict(row) for row in state["rows"]]


class Timing:
    """Writes ``timing.csv``: seconds of training and of evaluation with all that follows it, iterations a second.

    Acts on ``EPOCH_STARTED``, ``VALIDATION_STARTED`` and ``EPOCH_COMPLETED``, on rank 0. State: none; a resumed run
    appends to the file.

    Args:
        path: the CSV file.
    """

    header = "epoch,train_s,evaluation_s,iterations_per_s\n"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = 0.0
        self._evaluation_started: float | None = None
        self._first_iteration = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        register_train_events(engine, TrainEvents.VALIDATION_STARTED)
        engine.add_event_handler(TrainEvents.VALIDATION_STARTED, self._start_evaluation)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        now = time.perf_counter()
        trained = now if self._evaluation_started is None else self._evaluation_started
        train_s, evaluation_s = trained - self._started, now - trained
        rate = (train_state(engine).iteration - self._first_iteration) / train_s
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.header if new else "")
            file.write(f"{train_state(engine).epoch},{train_s:.3f},{evaluation_s:.3f},{rate:.3f}\n")

    def _start(self, engine: Engine) -> None:
        self._started, self._evaluation_started = time.perf_counter(), None
        self._first_iteration = train_state(engine).iteration

    def _start_evaluation(self, engine: Engine) -> None:
        self._evaluation_started = time.perf_counter()
