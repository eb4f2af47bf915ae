from __future__ import annotations

import os
import signal

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import LastCheckpoint, StopOnRequest, StopRequest, register_train_events


def run(stop_at: int, how: str) -> tuple[Engine, list[str], StopOnRequest]:
    events: list[str] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)

    def ask(engine: Engine) -> None:
        if engine.state.iteration == stop_at:
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                engine.state.stop_request = StopRequest(4, "because")

    engine.add_event_handler(Events.ITERATION_COMPLETED, ask)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: events.append(f"epoch {engine.state.epoch}"))
    LastCheckpoint(None, lambda path: events.append(f"saved {engine.state.iteration}")).attach(engine)  # type: ignore[arg-type]
    stop = StopOnRequest(signal_exit_code=75)
    stop.attach(engine)
    engine.add_event_handler(Events.COMPLETED, lambda engine: events.append("completed"))
    with stop.listening():
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
    stop = StopOnRequest(signal_exit_code=75)
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr("yolov6_ignite.handlers.stop.time.monotonic", lambda: next(clock))
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # the same stop by another way
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
