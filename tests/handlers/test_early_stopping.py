from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ignite.engine import Engine, Events
from torch import nn
from yolov6_ignite.handlers import (
    EarlyStopping,
    Evaluation,
    HandlerSet,
    LastCheckpoint,
    StopOnRequest,
    StopRequest,
    register_train_events,
)


def run(scores: Sequence[float], handler: EarlyStopping, *, request_at: int = 0) -> tuple[Engine, list[str]]:
    events: list[str] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    engine.state.ema_model = nn.Identity()
    values = iter(scores)
    handlers = HandlerSet(engine)
    handlers.add("evaluation", Evaluation(lambda model: {"val/AP": next(values)}, interval=1, heavy_range=0))
    handlers.add("early_stopping", handler)

    class History:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine: Engine) -> None:
            events.append(f"row {engine.state.epoch}")
            if engine.state.epoch == request_at:
                engine.state.stop_request = StopRequest(75, "because")

    handlers.add("history", History())
    save = lambda path: events.append(f"saved {handler.evaluations_since_best}")  # noqa: E731
    handlers.add("last_checkpoint", LastCheckpoint(None, save))  # type: ignore[arg-type]
    handlers.add("stop", StopOnRequest(exit_code=75))
    engine.add_event_handler(Events.COMPLETED, lambda engine: events.append("completed"))
    engine.run([0, 1], max_epochs=len(scores))
    return engine, events


def epochs(scores: Sequence[float], **settings: Any) -> int:
    return int(run(scores, EarlyStopping("val/AP", **settings))[0].state.epoch)


def test_patience_counts_evaluations_in_a_row() -> None:
    assert epochs([0.1, 0.2, 0.2, 0.1, 0.3, 0.1, 0.2, 0.3, 0.9], patience=3) == 8
    assert epochs([0.1, 0.2, 0.3, 0.4], patience=1) == 4
    assert epochs([0.0, 0.0, 0.5], patience=1) == 2


def test_small_steps_are_no_improvement_until_they_add_up() -> None:
    assert epochs([0.10, 0.105, 0.109, 0.2], patience=2, minimum_change=0.01) == 3
    assert epochs([0.10, 0.106, 0.112, 0.118, 0.124], patience=2, minimum_change=0.01) == 5


def test_a_score_that_is_no_number_is_no_improvement() -> None:
    assert epochs([float("nan"), 0.1, float("nan"), float("nan"), 0.5], patience=2) == 4


def test_the_epochs_end_goes_through_and_the_run_completes(caplog: pytest.LogCaptureFixture) -> None:
    handler = EarlyStopping("val/AP", patience=1)
    with caplog.at_level("INFO", logger="yolov6_ignite"):
        engine, events = run([0.5, 0.4, 0.6, 0.7], handler)
    assert events == ["row 1", "saved 0", "row 2", "saved 1", "saved 1", "completed"]
    assert engine.state.stop_request is None
    assert handler.stopped
    assert "after epoch 2: no improvement of val/AP over 0.5000 in 1 evaluations" in caplog.text


def test_a_stop_request_in_the_same_epoch_wins_and_the_resumed_run_knows() -> None:
    handler = EarlyStopping("val/AP", patience=1)
    _, events = run([0.5, 0.4, 0.6], handler, request_at=2)
    assert "completed" not in events
    resumed = EarlyStopping("val/AP", patience=1)
    resumed.load_state_dict(handler.state_dict())
    assert resumed.stopped
    assert "val/AP over 0.5000" in resumed.reason


def test_state_goes_on_and_a_higher_patience_is_not_used_up() -> None:
    first = EarlyStopping("val/AP", patience=2)
    run([0.5, 0.4, 0.3], first)
    assert first.stopped
    resumed = EarlyStopping("val/AP", patience=3)
    resumed.load_state_dict(first.state_dict())
    assert not resumed.stopped
    assert run([0.5, 0.9], resumed)[0].state.epoch == 1


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="patience"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="minimum_change"):
        EarlyStopping(patience=1, minimum_change=-0.1)
