from __future__ import annotations

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import HandlerSet, register_train_events


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
