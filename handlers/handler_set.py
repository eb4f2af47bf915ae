"""The handlers of one engine by name, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

    On every event the handlers act in this order, before whatever was attached to the engine by hand. A replacement
    takes the place of the handler that it replaces.

    Args:
        engine: the engine that the handlers are attached to.
        to_plain: gives a handler's state as a checkpoint can hold it, or raises a TypeError that says what it cannot
            hold; the second argument names the state in that message.
    """

    def __init__(self, engine: Engine, to_plain: Callable[[Any, str], Any] = lambda state, where: state) -> None:
        self._engine = engine
        self._to_plain = to_plain
        self._handlers: dict[str, Any] = {}
        self._unattached: set[str] = set()
        self._behind: set[str] = set()  # the handlers that an added one stands before
        self._saved_states: Mapping[str, Mapping[str, Any]] = {}
        self._listeners: dict[str, set[int]] = {}  # name -> ids of its entries in the engine's lists

    def __getitem__(self, name: str) -> Any:
        return self._handlers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(
        self,
        name: str,
        handler: Handler,
        *,
        before: str | None = None,
        after: str | None = None,
        attach: bool = True,
    ) -> None:
        """Attaches a handler.

        Without a place it acts where :meth:`put_others_before` says: in a run, once the results of an evaluation are
        known and before anything is recorded, saved or stopped.

        Args:
            name: what it is found by.
            handler: the handler.
            before: name of the handler that it acts directly before, on every event.
            after: name of the handler that it acts directly after.
            attach: False where it is listed only, as the handlers of rank 0 are on the other ranks; so is then what
                replaces it. All ranks have the same names.

        Raises:
            KeyError: there is no handler of the name ``before`` or ``after``.
            TypeError: the object has no ``attach(engine)``, or a checkpoint cannot hold its state.
            ValueError: the name is taken, or both ``before`` and ``after`` are given.
        """
        if name in self._handlers:
            raise ValueError(f"a handler named {name!r} is attached already; use replace(), or another name")
        if before is not None and after is not None:
            raise ValueError(f"handler {name!r}: before={before!r} and after={after!r}; give one of them")
        order = list(self._handlers)
        if before is not None or after is not None:
            neighbour = before if before is not None else str(after)
            self._require(neighbour)
            place = order.index(neighbour) + (before is None)
        else:
            place = next((place for place, other in enumerate(order) if other in self._behind), len(order))
        if not attach:
            self._unattached.add(name)
        try:
            self._attach(name, handler)
        except BaseException:
            self._unattached.discard(name)
            raise
        order.insert(place, name)
        self._handlers = {key: self._handlers[key] for key in order}
        self._sort_listeners()

    def put_others_before(self, name: str) -> None:
        """From now on, a handler that is added without a place acts before this one and all behind it.

        Raises:
            KeyError: there is no handler of that name.
        """
        self._require(name)
        order = list(self._handlers)
        self._behind = set(order[order.index(name) :])

    def replace(self, name: str, handler: Handler) -> None:
        """Puts a handler into the place of another; that one's ``detach(engine)`` says what it leaves behind.

        Raises:
            KeyError: there is no handler of that name.
            TypeError: the object has no ``attach(engine)``, or a checkpoint cannot hold its state.
        """
        self._require(name)
        _require_attach(name, handler)
        self._detach(name)
        self._attach(name, handler)
        self._sort_listeners()

    def remove(self, name: str) -> None:
        """Detaches a handler; its ``detach(engine)``, where it has one, says what is left behind.

        Raises:
            KeyError: there is no handler of that name.
        """
        self._require(name)
        self._detach(name)
        del self._handlers[name]
        self._unattached.discard(name)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """States by name, of the handlers that keep one, as plain values and tensors."""
        return {name: self._state_of(name, h) for name, h in self._handlers.items() if hasattr(h, "state_dict")}

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
        try:
            if name not in self._unattached:
                handler.attach(self._engine)
            if hasattr(handler, "state_dict"):  # now, not at the first checkpoint hours later
                self._state_of(name, handler)
        except BaseException:
            self._drop(self._attached() - before)
            raise
        self._handlers[name] = handler
        self._load_state(name)
        self._listeners[name] = self._attached() - before

    def _detach(self, name: str) -> None:
        self._drop(self._listeners.pop(name))
        handler = self._handlers[name]
        if name not in self._unattached and hasattr(handler, "detach"):
            handler.detach(self._engine)

    def _drop(self, entries: set[int]) -> None:
        for listeners in self._engine._event_handlers.values():
            listeners[:] = [listener for listener in listeners if id(listener) not in entries]

    def _sort_listeners(self) -> None:
        """Puts the listeners of every event into the order of the handlers; those attached by hand stay behind."""
        ranks = {entry: rank for rank, key in enumerate(self._handlers) for entry in self._listeners[key]}
        for listeners in self._engine._event_handlers.values():
            listeners.sort(key=lambda listener: ranks.get(id(listener), len(ranks)))

    def _state_of(self, name: str, handler: Any) -> dict[str, Any]:
        if not hasattr(handler, "load_state_dict"):
            raise TypeError(f"handler {name!r}: has state_dict() but no load_state_dict(state) to restore it with")
        try:
            state: dict[str, Any] = self._to_plain(handler.state_dict(), "state_dict()")
        except Exception as error:  # of the user's code too
            raise TypeError(f"handler {name!r}: {error}") from error
        return state

    def _load_state(self, name: str) -> None:
        handler = self._handlers[name]
        if name in self._saved_states and hasattr(handler, "load_state_dict"):
            handler.load_state_dict(self._saved_states[name])

    def _attached(self) -> set[int]:
        return {id(listener) for listeners in self._engine._event_handlers.values() for listener in listeners}


def _require_attach(name: str, handler: Handler) -> None:
    if not isinstance(handler, Handler):
        raise TypeError(f"handler {name!r}: {type(handler).__name__} has no attach(engine)")
