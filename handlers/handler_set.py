"""The handlers of one engine by name, in the order in which they act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from ignite.engine import Engine

__all__ = ["Handler", "HandlerSet"]


@runtime_checkable
class Handler(Protocol):
    """What a handler is: configuration in ``__init__``, wiring in ``attach``."""

    def attach(self, engine: Engine) -> None:
        """Adds this handler to the engine's events."""


class HandlerSet(Mapping[str, Any]):
    """An ordered mapping from name to attached handler, with ``add``, ``replace`` and ``remove``.

    Ignite calls the listeners of an event in the order of attachment. A replacement takes the place of the
    handler that it replaces on every event, before whatever was attached to the engine by hand.

    Args:
        engine: the engine that the handlers are attached to.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._handlers: dict[str, Any] = {}
        self._listeners: dict[str, set[int]] = {}  # name -> ids of its entries in the engine's lists

    def __getitem__(self, name: str) -> Any:
        return self._handlers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, name: str, handler: Handler) -> None:
        """Attaches a handler behind the others.

        Raises:
            ValueError: the name is taken.
            TypeError: the object has no ``attach(engine)``.
        """
        if name in self._handlers:
            raise ValueError(f"a handler named {name!r} is attached already; use replace()")
        self._attach(name, handler)

    def replace(self, name: str, handler: Handler) -> None:
        """Puts a handler into the place of another.

        Raises:
            KeyError: there is no handler of that name.
            TypeError: the object has no ``attach(engine)``.
        """
        self._require(name)
        self._detach(name)
        self._attach(name, handler)
        ranks = {entry: rank for rank, key in enumerate(self._handlers) for entry in self._listeners[key]}
        for listeners in self._engine._event_handlers.values():
            listeners.sort(key=lambda listener: ranks.get(id(listener), len(ranks)))

    def remove(self, name: str) -> None:
        """Detaches a handler; its ``detach(engine)``, where it has one, says what is left behind.

        Raises:
            KeyError: there is no handler of that name.
        """
        self._require(name)
        self._detach(name)
        handler = self._handlers.pop(name)
        if hasattr(handler, "detach"):
            handler.detach(self._engine)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """States by name, of the handlers that keep one."""
        return {name: h.state_dict() for name, h in self._handlers.items() if hasattr(h, "state_dict")}

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Gives every handler that keeps a state its own; a handler that is new to the run starts fresh."""
        for name, handler in self._handlers.items():
            if name in states and hasattr(handler, "load_state_dict"):
                handler.load_state_dict(states[name])

    def _require(self, name: str) -> None:
        if name not in self._handlers:
            raise KeyError(f"there is no handler {name!r}; attached are {', '.join(self._handlers)}")

    def _attach(self, name: str, handler: Handler) -> None:
        if not isinstance(handler, Handler):
            raise TypeError(f"handler {name!r}: {type(handler).__name__} has no attach(engine)")
        before = self._attached()
        handler.attach(self._engine)
        self._handlers[name] = handler
        self._listeners[name] = self._attached() - before

    def _detach(self, name: str) -> None:
        own = self._listeners.pop(name)
        for listeners in self._engine._event_handlers.values():
            listeners[:] = [listener for listener in listeners if id(listener) not in own]

    def _attached(self) -> set[int]:
        return {id(listener) for listeners in self._engine._event_handlers.values() for listener in listeners}
