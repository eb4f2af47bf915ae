from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import GradientAccumulation, HandlerSet, TrainEvents, register_train_events

from yolov6_ignite.checkpoint import to_plain


class Recorder:
    def __init__(self, name: str, calls: list[str], *events: Events) -> None:
        self.name, self.calls, self.events = name, calls, events
        self.loaded: object = None

    def attach(self, engine: Engine) -> None:
        for event in self.events:
            engine.add_event_handler(event, self)

    def __call__(self, engine: Engine) -> None:
        self.calls.append(self.name)

    def state_dict(self) -> dict[str, str]:
        return {"name": self.name}

    def load_state_dict(self, state: dict[str, str]) -> None:
        self.loaded = state


class Stateless:
    def attach(self, engine: Engine) -> None:
        pass


@pytest.fixture
def engine() -> Engine:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    return engine


def test_replacement_takes_the_place_before_what_was_attached_by_hand(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    for name in ("a", "b", "c"):
        handlers.add(name, Recorder(name, calls, Events.ITERATION_COMPLETED))
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: calls.append("user"))
    handlers.replace("b", Recorder("B", calls, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED(every=1)))
    engine.run([0])
    assert calls == ["B", "a", "B", "c", "user"]
    assert list(handlers) == ["a", "b", "c"]


def test_replacing_twice_keeps_the_order(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    for name in ("a", "b", "c"):
        handlers.add(name, Recorder(name, calls, Events.ITERATION_COMPLETED))
    for name in ("c", "a", "b", "a"):
        handlers.replace(name, Recorder(name.upper(), calls, Events.ITERATION_COMPLETED))
    engine.run([0])
    assert calls == ["A", "B", "C"]


def test_a_removed_handler_is_silent(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    handlers.add("a", Recorder("a", calls, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED(every=1)))
    handlers.add("b", Recorder("b", calls, Events.ITERATION_COMPLETED))
    handlers.remove("a")
    engine.run([0])
    assert calls == ["b"]
    assert "a" not in handlers


def test_states_go_by_name_and_a_new_handler_starts_fresh(engine: Engine) -> None:
    handlers = HandlerSet(engine)
    handlers.add("a", Recorder("a", [], Events.STARTED))
    handlers.add("stateless", Stateless())
    assert handlers.state_dict() == {"a": {"name": "a"}}
    handlers.add("new", Recorder("new", [], Events.STARTED))
    handlers.load_state_dict({"a": {"name": "saved"}, "gone": {"x": 1}})
    assert handlers["a"].loaded == {"name": "saved"}
    assert handlers["new"].loaded is None
    handlers.replace("a", Recorder("A", [], Events.STARTED))  # after the states have come
    assert handlers["a"].loaded == {"name": "saved"}


def test_a_listed_handler_is_silent_and_so_is_what_replaces_it(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    handlers.add("a", Recorder("a", calls, Events.ITERATION_COMPLETED), attach=False)
    handlers.replace("a", Recorder("A", calls, Events.ITERATION_COMPLETED))
    engine.run([0])
    assert calls == []
    handlers.remove("a")
    assert "a" not in handlers


def test_a_refused_replacement_changes_nothing(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    handlers.add("a", Recorder("a", calls, Events.ITERATION_COMPLETED))
    with pytest.raises(TypeError, match="no attach"):
        handlers.replace("a", object())  # type: ignore[arg-type]
    engine.run([0])
    assert calls == ["a"]


def test_wrong_use_is_refused(engine: Engine) -> None:
    handlers = HandlerSet(engine)
    handlers.add("a", Stateless())
    with pytest.raises(ValueError, match="attached already"):
        handlers.add("a", Stateless())
    with pytest.raises(KeyError, match="attached are a"):
        handlers.replace("b", Stateless())
    with pytest.raises(KeyError, match="no handler 'b'"):
        handlers.remove("b")
    with pytest.raises(TypeError, match="no attach"):
        handlers.add("c", object())  # type: ignore[arg-type]


def named(calls: list[str], names: str, *events: Events) -> list[tuple[str, Recorder]]:
    return [(name, Recorder(name, calls, *(events or (Events.ITERATION_COMPLETED,)))) for name in names]


def test_places(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    for name, handler in named(calls, "abc"):
        handlers.add(name, handler)
    handlers.put_others_before("b")
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: calls.append("by hand"))
    x, y, z, w = (handler for _, handler in named(calls, "xyzw"))
    handlers.add("x", x)
    handlers.add("y", y, before="a")
    handlers.add("z", z, after="c")
    handlers.add("w", w)
    assert list(handlers) == ["y", "a", "x", "w", "b", "c", "z"]
    engine.run([0])
    assert calls == [*handlers, "by hand"]


def test_the_default_place_outlives_the_handlers_around_it(engine: Engine) -> None:
    handlers = HandlerSet(engine)
    for name in "abcd":
        handlers.add(name, Stateless())
    handlers.put_others_before("c")
    handlers.remove("c")
    handlers.replace("d", Stateless())
    handlers.add("x", Stateless())
    assert list(handlers) == ["a", "b", "x", "d"]
    handlers.remove("d")
    handlers.add("y", Stateless())
    assert list(handlers) == ["a", "b", "x", "y"]


@given(st.lists(st.tuples(st.sampled_from(["", "before", "after"]), st.integers(0, 50)), max_size=8))
def test_on_every_event_they_act_in_the_order_of_the_mapping(places: list[tuple[str, int]]) -> None:
    engine = Engine(lambda engine, batch: None)
    calls: list[str] = []
    handlers = HandlerSet(engine)
    events = (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)
    for name, handler in named(calls, "abc", *events):
        handlers.add(name, handler)
    handlers.put_others_before("b")
    for number, (side, neighbour) in enumerate(places):
        others = list(handlers)
        place = {side: others[neighbour % len(others)]} if side else {}
        handlers.add(str(number), Recorder(str(number), calls, *events), **place)
        if side:
            between = list(handlers).index(str(number)) - list(handlers).index(place[side])
            assert between == (-1 if side == "before" else 1)
    engine.run([0])
    assert calls == list(handlers) * 2


def test_wrong_places_are_refused_and_change_nothing(engine: Engine) -> None:
    calls: list[str] = []
    handlers = HandlerSet(engine)
    handlers.add("a", Stateless())
    recorder = Recorder("b", calls, Events.ITERATION_COMPLETED)
    with pytest.raises(KeyError, match="no handler 'z'"):
        handlers.add("b", recorder, before="z")
    with pytest.raises(ValueError, match="give one of them"):
        handlers.add("b", recorder, before="a", after="a")
    engine.run([0])
    assert calls == []
    assert list(handlers) == ["a"]


def test_a_state_that_a_checkpoint_cannot_hold_is_refused_when_the_handler_is_added(engine: Engine) -> None:
    class Bad(Recorder):
        def state_dict(self) -> dict[str, object]:  # type: ignore[override]
            return {"seen": {1, 2}}

    calls: list[str] = []
    handlers = HandlerSet(engine, to_plain)
    bad = Bad("bad", calls, Events.ITERATION_COMPLETED)
    with pytest.raises(TypeError, match=r"handler 'bad': state_dict\(\)\.seen: a checkpoint cannot hold a set"):
        handlers.add("bad", bad)
    engine.run([0])
    assert calls == []
    assert "bad" not in handlers


def test_a_state_that_could_not_be_restored_is_refused(engine: Engine) -> None:
    class Forgets(Stateless):
        def state_dict(self) -> dict[str, int]:
            return {}

    with pytest.raises(TypeError, match="no load_state_dict"):
        HandlerSet(engine).add("forgets", Forgets())


def test_scalars_of_numpy_become_pythons(engine: Engine) -> None:
    class Best(Recorder):
        def state_dict(self) -> dict[str, object]:  # type: ignore[override]
            return {"best": np.float64(0.5)}

    handlers = HandlerSet(engine, to_plain)
    handlers.add("best", Best("best", []))
    assert type(handlers.state_dict()["best"]["best"]) is float


def test_what_a_replaced_handler_left_behind_is_taken_back(engine: Engine) -> None:
    class Leaves(Stateless):
        def attach(self, engine: Engine) -> None:
            engine.state.left = True

        def detach(self, engine: Engine) -> None:
            engine.state.left = False

    handlers = HandlerSet(engine)
    handlers.add("a", Leaves())
    handlers.replace("a", Stateless())
    assert engine.state.left is False


def test_events_of_the_optimizer_step_count_alike(toy: Any) -> None:
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    steps: dict[str, list[int]] = {"started": [], "completed": []}
    for event, name in (
        (TrainEvents.OPTIMIZER_STEP_STARTED, "started"),
        (TrainEvents.OPTIMIZER_STEP_COMPLETED, "completed"),
    ):
        note = lambda engine, name: steps[name].append(engine.state.iteration)  # noqa: E731
        toy.engine.add_event_handler(event(every=2), note, name)
    toy.engine.run(toy.batches(6))
    assert steps == {"started": [2, 4, 6], "completed": [2, 4, 6]}
