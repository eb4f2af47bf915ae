from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import (
    HandlerSet,
    LastCheckpoint,
    StopOnRequest,
    StopRequest,
    register_train_events,
    train_state,
)


def run(stop_at: int, how: str) -> tuple[Engine, list[str], StopOnRequest]:
    events: list[str] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)

    def ask(engine: Engine) -> None:
        if engine.state.iteration == stop_at:
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            elif how == "terminate":
                engine.terminate()
            else:
                engine.state.stop_request = StopRequest(4, "because")

    engine.add_event_handler(Events.ITERATION_COMPLETED, ask)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: events.append(f"epoch {engine.state.epoch}"))
    LastCheckpoint(None, lambda path: events.append(f"saved {engine.state.iteration}")).attach(engine)  # type: ignore[arg-type]
    stop = StopOnRequest(exit_code=75)
    stop.attach(engine)
    engine.add_event_handler(Events.COMPLETED, lambda engine: events.append("completed"))
    with train_state(engine).exit_stack:
        engine.run([0, 1, 2], max_epochs=3)
    return engine, events, stop


def test_a_signal_stops_within_the_iteration_and_saves() -> None:
    engine, events, _ = run(4, "signal")
    assert engine.state.stop_request.exit_code == 75
    assert "SIGTERM" in engine.state.stop_request.reason
    assert events == ["epoch 1", "saved 3", "saved 4"]


def test_a_request_at_an_epochs_end_waits_for_the_epochs_end() -> None:
    engine, events, _ = run(6, "request")
    assert events == ["epoch 1", "saved 3", "epoch 2", "saved 6", "saved 6"]
    assert engine.state.stop_request == StopRequest(4, "because")


def test_the_last_epoch_is_not_stripped_after_a_request() -> None:
    _, events, _ = run(9, "request")
    assert "completed" not in events


def test_signals_are_given_back_and_a_later_one_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopOnRequest(exit_code=75)
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr("yolov6_ignite.handlers.stop.time.monotonic", lambda: next(clock))
    engine = Engine(lambda engine, batch: None)
    stop.attach(engine)
    with train_state(engine).exit_stack:
        engine.fire_event(Events.STARTED)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # the same stop by another way
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("stop_at", "expected"),
    [(4, ["epoch 1", "saved 3", "saved 4"]), (6, ["epoch 1", "saved 3", "epoch 2", "saved 6", "saved 6"])],
)
def test_terminate_is_a_stop_that_can_be_resumed(stop_at: int, expected: list[str]) -> None:
    engine, events, _ = run(stop_at, "terminate")
    assert events == expected  # an epoch's end goes through, and nothing is stripped
    assert engine.state.stop_request.exit_code == 75
    assert "engine.terminate()" in engine.state.stop_request.reason


def test_terminate_between_the_counting_of_an_iteration_and_its_step_waits_for_the_step() -> None:
    steps: list[int] = []
    engine = Engine(lambda engine, batch: steps.append(engine.state.iteration))
    StopOnRequest(exit_code=75).attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda engine: engine.terminate())
    engine.run([0, 1, 2], max_epochs=1)
    assert steps == [1, 2]


def test_removed_it_gives_terminate_back() -> None:
    engine = Engine(lambda engine, batch: None)
    handlers = HandlerSet(engine)
    handlers.add("stop", StopOnRequest(exit_code=75))
    handlers.remove("stop")
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda engine: engine.terminate())
    engine.run([0, 1, 2], max_epochs=1)
    assert train_state(engine).stop_request is None
    assert engine.state.iteration == 2


@pytest.mark.parametrize(
    ("event", "iteration"), [(Events.ITERATION_COMPLETED(once=4), 4), (Events.EPOCH_COMPLETED(once=2), 6)]
)
def test_terminate_by_a_listener_behind_it_acts_at_once(event: Any, iteration: int) -> None:
    engine = Engine(lambda engine, batch: None)
    StopOnRequest(exit_code=75).attach(engine)
    engine.add_event_handler(event, lambda engine: engine.terminate())
    engine.run([0, 1, 2], max_epochs=3)
    assert engine.state.iteration == iteration


def test_terminate_in_the_last_iteration_leaves_a_finished_run() -> None:
    engine, events, _ = run(9, "terminate")
    assert events[-1] == "completed"
    assert engine.state.stop_request is None
