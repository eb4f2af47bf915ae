from __future__ import annotations

from collections.abc import Iterator

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import StopOnRequest, StopRequest, TimeLimit, register_train_events


class Clock:
    """Every reading is a second later."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def run(seconds: float, clock: Clock, *, evaluation_s: float = 0.0, epochs: int = 3) -> tuple[Engine, list[str]]:
    events: list[str] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)

    def evaluate(engine: Engine) -> None:
        clock.now += evaluation_s

    engine.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
    TimeLimit(seconds / 3600, exit_code=75, clock=clock).attach(engine)
    StopOnRequest(exit_code=75).attach(engine)
    engine.add_event_handler(Events.COMPLETED, lambda engine: events.append("completed"))
    engine.add_event_handler(Events.TERMINATE, lambda engine: events.append(f"stopped {engine.state.iteration}"))
    engine.run([0, 1, 2], max_epochs=epochs)
    return engine, events


def test_the_run_stops_once_the_time_is_up_and_can_be_resumed() -> None:
    engine, events = run(5, Clock())  # read after iterations 1, 2, 3, after the epoch, after iteration 4
    assert events == ["stopped 4"]
    assert engine.state.stop_request == StopRequest(
        75, "train.time_limit of 0.00138889 hours is up; resume with train.resume=auto"
    )


def test_time_that_passes_in_an_evaluation_stops_at_the_epochs_end() -> None:
    _, events = run(100, Clock(), evaluation_s=200)
    assert events == ["stopped 3"]


def test_a_run_that_is_through_is_completed() -> None:
    _, events = run(100, Clock(), evaluation_s=200, epochs=1)
    assert events == ["completed"]


def test_time_counts_from_the_start_of_the_run() -> None:
    clock = Clock()
    clock.now = 1e9
    assert run(100, clock)[1] == ["completed"]


def test_an_earlier_request_stays() -> None:
    readings: Iterator[float] = iter([0.0, 10.0])
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    TimeLimit(1 / 3600, exit_code=75, clock=lambda: next(readings)).attach(engine)
    engine.add_event_handler(
        Events.STARTED, lambda engine: setattr(engine.state, "stop_request", StopRequest(4, "first"))
    )
    engine.run([0, 1, 2], max_epochs=1)
    assert engine.state.stop_request == StopRequest(4, "first")


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="hours"):
        TimeLimit(0, exit_code=75)
