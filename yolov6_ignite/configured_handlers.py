"""The ``handlers:`` of a configuration: imported, built, and added in their places."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.handlers import Handler, HandlerSet

__all__ = ["ConfiguredHandler", "add_configured_handlers", "build_configured_handlers"]

PLACE_KEYS = ("name", "before", "after")


class ConfiguredHandler(NamedTuple):
    """A handler that a configuration asks for.

    Attributes:
        where: its place in the configuration, for messages.
        handler: the handler.
        name: what it is found by.
        before: name of the handler that it acts before, where one is given.
        after: name of the handler that it acts after, likewise.
    """

    where: str
    handler: Handler
    name: str
    before: str | None
    after: str | None


def build_configured_handlers(config: Config) -> list[ConfiguredHandler]:
    """Imports and builds the ``handlers:`` of a configuration; none is attached yet.

    An entry is ``module:Class``, or ``{module:Class: {argument: value}, name: ..., before: ...}`` with the last two,
    or ``after``, where they are wanted. Without a name a handler has that of its class, a second one of that class
    ``Class_2``. Modules are looked for in the configuration's folder, then in the current one, then where Python does.

    Raises:
        ConfigError: an entry is malformed, cannot be imported or built, or is no handler.
    """
    built: list[ConfiguredHandler] = []
    with _importing_from(*([config.folder] if config.folder else []), Path.cwd()):
        for index, entry in enumerate(config.handlers):
            built.append(_build(f"handlers.{index}", entry, [other.name for other in built]))
    return built


def add_configured_handlers(handlers: HandlerSet, configured: list[ConfiguredHandler]) -> None:
    """Adds them to a run's handlers, on every rank.

    Raises:
        ConfigError: a name is taken, a place does not exist, or a handler cannot be attached.
    """
    for where, handler, name, before, after in configured:
        try:
            handlers.add(name, handler, before=before, after=after)
        except Exception as error:  # attach() is the user's code
            reason = str(error.args[0]) if isinstance(error, KeyError) and error.args else _told(error)
            raise ConfigError(f"{where}: {reason}") from error


def _build(index: str, entry: str | Mapping[str, Any], taken: list[str]) -> ConfiguredHandler:
    settings: dict[str, Any] = {entry: None} if isinstance(entry, str) else dict(entry)
    place = {key: settings.pop(key) for key in PLACE_KEYS if key in settings}
    wrong = [key for key, value in place.items() if not isinstance(value, str)]
    if len(settings) != 1 or wrong:
        raise ConfigError(
            f"{index}: expected module:Class, or {{module:Class: {{argument: value}}}} with name, before or after "
            f"(texts) beside it; got {wrong or list(settings)}"
        )
    ((target, arguments),) = settings.items()
    where = f"{index}: {target}"
    if arguments is not None and not isinstance(arguments, dict):
        raise ConfigError(f"{where}: expected arguments as {{name: value}}, got {arguments!r}")
    handler_class = _import(where, str(target))
    try:
        inspect.signature(handler_class).bind(**(arguments or {}))
        handler = handler_class(**(arguments or {}))
    except Exception as error:  # a constructor is the user's code
        raise ConfigError(f"{where}: {_told(error)}") from error
    class_name = handler_class.__name__
    same = sum(name == class_name or name.startswith(f"{class_name}_") for name in taken)
    name = place.pop("name", class_name if not same else f"{class_name}_{same + 1}")
    return ConfiguredHandler(where, handler, name, place.get("before"), place.get("after"))


def _import(where: str, target: str) -> type:
    module_name, separator, class_name = target.partition(":")
    if not separator or not class_name:
        raise ConfigError(f"{where}: expected module:Class, for example my_project.handlers:Notifier")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise ConfigError(
            f"{where}: cannot be imported ({_told(error)}); is the module beside the configuration, in the current "
            "folder or on PYTHONPATH?"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f"{where}: {module_name} has no {class_name}")
    if not inspect.isclass(found) or not callable(getattr(found, "attach", None)):
        raise ConfigError(f"{where}: {class_name} is not a class with attach(engine), so it is no handler")
    return found


@contextmanager
def _importing_from(*folders: Path) -> Iterator[None]:
    """Looks for modules in folders first; afterwards last, for what is imported late."""
    before = list(sys.path)
    own = [str(folder) for folder in folders]
    sys.path[:0] = own
    importlib.invalidate_caches()  # a module may have been written a moment ago
    try:
        yield
    finally:
        sys.path[:] = [*before, *(folder for folder in dict.fromkeys(own) if folder not in before)]


def _told(error: Exception) -> str:
    """An error of any kind as text; its type says what a bare KeyError does not."""
    return str(error) if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: {error}"
