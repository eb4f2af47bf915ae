from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import HandlerSet, Profile, TrainEvents, register_train_events


class Clock:
    """Time passes where a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Busy:
    def __init__(self, clock: Clock, seconds: float, *events: Any, fires: Any = None) -> None:
        self.clock, self.seconds, self.events, self.fires = clock, seconds, events, fires

    def attach(self, engine: Engine) -> None:
        for event in self.events:
            engine.add_event_handler(event, self.act)

    def act(self, engine: Engine) -> None:
        self.clock.now += self.seconds
        if self.fires is not None:
            engine.fire_event(self.fires)


class Run:
    """Two epochs of three iterations, each of 4 s for data, 2 s for the step."""

    def __init__(self, *, data_s: float = 4.0, device: torch.device | None = None) -> None:
        self.clock = Clock()
        self.data_s = data_s
        self.engine = Engine(self._step)
        register_train_events(self.engine)
        self.handlers = HandlerSet(self.engine)
        self.profile = Profile(self.handlers, device=device, clock=self.clock)
        self.handlers.add("profile", self.profile)

    def busy(self, seconds: float, *events: Any, fires: Any = None) -> Busy:
        return Busy(self.clock, seconds, *events, fires=fires)

    def _step(self, engine: Engine, batch: int) -> None:
        self.clock.now += 2.0
        engine.fire_event(TrainEvents.BACKWARD_COMPLETED)

    def go(self) -> None:
        run = self

        class Data:
            def __len__(self) -> int:
                return 3

            def __iter__(self) -> Iterator[int]:
                for batch in range(3):
                    run.clock.now += run.data_s
                    yield batch

        self.engine.run(Data(), max_epochs=2)

    def rows(self) -> dict[tuple[str, str], tuple[int, float]]:
        """Calls and milliseconds an iteration by name and event, read from the table."""
        rows = {}
        for line in self.profile.table().splitlines()[2:]:
            ms, share, *rest = line.split(maxsplit=2)
            calls, _, name = rest[0].partition("  ") if rest[0][0].isdigit() else ("0", "", rest[0])
            handler, _, event = name.strip().rpartition(", ") if name.strip().endswith("ED") else (name.strip(), "", "")
            rows[handler, event] = (int(calls), float(ms))
            assert share.endswith("%")
        return rows


def test_every_second_is_in_one_row() -> None:
    run = Run()
    run.handlers.add("policy", run.busy(0.5, Events.ITERATION_STARTED))
    accumulation = run.busy(1.0, TrainEvents.BACKWARD_COMPLETED, fires=TrainEvents.OPTIMIZER_STEP_STARTED)
    run.handlers.add("accumulation", accumulation)
    run.handlers.add("guard", run.busy(0.25, TrainEvents.OPTIMIZER_STEP_STARTED))
    run.handlers.add("saver", run.busy(3.0, Events.ITERATION_COMPLETED(every=2), Events.EPOCH_COMPLETED))
    run.engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: None)
    run.go()
    rows = run.rows()
    assert rows.pop(("everything else", "")) == (0, 0.0)
    name = next(name for name, event in rows if event == "EPOCH_STARTED")
    assert "lambda" in name
    assert rows.pop((name, "EPOCH_STARTED")) == (2, 0.0)
    assert rows == {
        ("waiting for data", ""): (6, 4000.0),
        ("forward, loss, backward", ""): (6, 2000.0),
        ("policy", "ITERATION_STARTED"): (6, 500.0),
        ("accumulation", "BACKWARD_COMPLETED"): (6, 1000.0),
        ("guard", "OPTIMIZER_STEP_STARTED"): (6, 250.0),
        ("saver", "ITERATION_COMPLETED"): (3, 1500.0),
        ("saver", "EPOCH_COMPLETED"): (2, 1000.0),
    }


def test_the_longest_comes_first_with_its_share() -> None:
    run = Run(data_s=6.0)
    run.go()
    lines = run.profile.table().splitlines()
    assert lines[0] == "6 iterations in 48.0 s"
    assert lines[2].split() == ["6000.000", "75.0%", "6", "waiting", "for", "data"]
    assert [line.split()[1] for line in lines[2:]] == ["75.0%", "25.0%", "0.0%"]


def test_verdict_counts_training_only(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    run.handlers.add("evaluation", run.busy(1000.0, Events.EPOCH_COMPLETED, fires=TrainEvents.VALIDATION_COMPLETED))
    run.handlers.add("plots", run.busy(100.0, TrainEvents.VALIDATION_COMPLETED))
    with caplog.at_level("INFO", logger="yolov6_ignite"):
        run.go()
    verdict = (
        "data loading is the bottleneck: 67% of the training time is spent waiting; "
        "raise data.workers or use data.cache=ram"
    )
    assert run.profile.verdict() == verdict
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == [f"profile, epoch {epoch}: {verdict}" for epoch in (1, 2)]
    assert len(messages) == 3
    assert "evaluation, EPOCH_COMPLETED" in messages[2]


def test_compute_bound() -> None:
    run = Run(data_s=0.1)
    run.go()
    assert run.profile.verdict() == "compute-bound: 5% of the training time is spent waiting for data"


def test_a_terminated_run_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    run.engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.terminate())
    with caplog.at_level("INFO", logger="yolov6_ignite"):
        run.go()
    assert sum("iterations in" in record.getMessage() for record in caplog.records) == 1


def test_handlers_can_be_replaced_and_removed_while_it_runs() -> None:
    run = Run()
    calls: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

        def __call__(self, engine: Engine) -> None:
            calls.append(self.name)

    for name in "abc":
        run.handlers.add(name, Recorder(name))

    def exchange(engine: Engine) -> None:
        run.handlers.replace("a", Recorder("A"))
        run.handlers.remove("b")

    run.engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), exchange)
    run.go()
    rows = run.rows()
    assert calls == list("abc" * 3 + "Ac" * 3)
    assert rows["a", "ITERATION_COMPLETED"][0] == 6


def test_what_is_attached_by_hand_can_be_taken_away_again() -> None:
    run = Run()
    calls: list[int] = []

    def listener() -> None:  # without the engine, which Ignite allows
        calls.append(1)

    def other(engine: Engine, number: int) -> None:
        calls.append(number)

    run.engine.add_event_handler(Events.ITERATION_COMPLETED, listener)
    handle = run.engine.add_event_handler(Events.EPOCH_STARTED | Events.EPOCH_COMPLETED, other, 7)
    assert run.engine.has_event_handler(listener, Events.ITERATION_COMPLETED)
    run.engine.remove_event_handler(listener, Events.ITERATION_COMPLETED)
    run.go()
    assert calls == [7] * 4
    handle.remove()
    assert not run.engine.has_event_handler(other)


def test_without_it_the_engine_is_untouched() -> None:
    run = Run()
    run.handlers.remove("profile")
    assert "add_event_handler" not in vars(run.engine)
    run.handlers.add("late", run.busy(1.0, Events.ITERATION_COMPLETED))
    run.go()
    assert run.profile.iterations == 0


def test_one_that_is_only_listed_can_be_removed() -> None:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    handlers = HandlerSet(engine)
    handlers.add("profile", Profile(handlers), attach=False)
    handlers.remove("profile")
    assert "add_event_handler" not in vars(engine)


def test_the_device_is_read_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(device=torch.device("cuda"))
    waits: list[int] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = run.clock.now

        def synchronize(self) -> None:
            waits.append(run.engine.state.iteration)

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    run.go()
    assert set(waits) == {3, 6}
    assert run.profile.table().splitlines()[-1].split(maxsplit=1) == [
        "2000.000",
        "forward, loss, backward, on the device",
    ]
