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
        self._unattached: set[str] = set()
        self._saved_states: Mapping[str, Mapping[str, Any]] = {}
        self._listeners: dict[str, set[int]] = {}  # name -> ids of its entries in the engine's lists

    def __getitem__(self, name: str) -> Any:
        return self._handlers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, name: str, handler: Handler, *, attach: bool = True) -> None:
        """Attaches a handler behind the others.

        Args:
            name: what it is found by.
            handler: the handler.
            attach: False where it is listed only, as the handlers of rank 0 are on the other ranks; so is then what
                replaces it. All ranks have the same names.

        Raises:
            ValueError: the name is taken.
            TypeError: the object has no ``attach(engine)``.
        """
        if name in self._handlers:
            raise ValueError(f"a handler named {name!r} is attached already; use replace()")
        if not attach:
            self._unattached.add(name)
        self._attach(name, handler)

    def replace(self, name: str, handler: Handler) -> None:
        """Puts a handler into the place of another.

        Raises:
            KeyError: there is no handler of that name.
            TypeError: the object has no ``attach(engine)``.
        """
        self._require(name)
        _require_attach(name, handler)
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
        """Gives every handler that keeps a state its own, now or when it is added or put in the place of another.

        A handler that is new to the run starts fresh.
        """
        self._saved_states = states
        for name in self._handlers:
            self._load_state(name)

    def _require(self, name: str) -> None:
        if name not in self._handlers:
            raise KeyError(f"there is no handler {name!r}; attached are {', '.join(self._handlers)}")

    def _attach(self, name: str, handler: Handler) -> None:
        _require_attach(name, handler)
        before = self._attached()
        if name not in self._unattached:
            handler.attach(self._engine)
        self._handlers[name] = handler
        self._load_state(name)
        self._listeners[name] = self._attached() - before

    def _detach(self, name: str) -> None:
        own = self._listeners.pop(name)
        for listeners in self._engine._event_handlers.values():
            listeners[:] = [listener for listener in listeners if id(listener) not in own]

    def _load_state(self, name: str) -> None:
        handler = self._handlers[name]
        if name in self._saved_states and hasattr(handler, "load_state_dict"):
            handler.load_state_dict(self._saved_states[name])

    def _attached(self) -> set[int]:
        return {id(listener) for listeners in self._engine._event_handlers.values() for listener in listeners}


def _require_attach(name: str, handler: Handler) -> None:
    if not isinstance(handler, Handler):
        raise TypeError(f"handler {name!r}: {type(handler).__name__} has no attach(engine)")
