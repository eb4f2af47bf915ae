"""Reading a configuration: YAML with ``base:``, ``key=value`` overrides, and the origin of every value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError

__all__ = [
    "apply_overrides",
    "dump_config",
    "load_config",
    "load_config_with_origins",
    "parse_overrides",
    "recipe_names",
    "recipe_path",
]

COMMAND_LINE = "command line"


def load_config(path_or_recipe_name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a recipe, its ``base:`` recipes and the overrides, then validates the result.

    Args:
        path_or_recipe_name: a YAML file, or the name of a shipped recipe (``yolov6n``).
        overrides: ``section.key=value`` strings; values are YAML.

    Raises:
        ConfigError: a file is missing or malformed, a key is unknown, a value does not fit.
    """
    return load_config_with_origins(path_or_recipe_name, overrides)[0]


def load_config_with_origins(
    path_or_recipe_name: str | Path, overrides: Iterable[str] = ()
) -> tuple[Config, dict[str, str]]:
    """Like :func:`load_config`, with ``{dotted key: "file:line" or "command line"}`` of every value that was set."""
    path = recipe_path(path_or_recipe_name)
    values, origins = _read_with_bases(path, ())
    for key, value in parse_overrides(overrides).items():
        _set(values, origins, key, value)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, str(path_or_recipe_name))) from None
    if Path(path_or_recipe_name).is_file():
        config._folder = path.resolve().parent
    return config, origins


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``section.key=value`` strings as {dotted key: value}; values are YAML.

    Raises:
        ConfigError: one is malformed.
    """
    values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"override {override!r}: expected section.key=value, for example train.epochs=50")
        try:
            values[key.strip()] = yaml.safe_load(text) if text.strip() else None
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"override {override!r}: the value is not YAML ({_first_line(error)})") from error
    return values


def apply_overrides(config: Config, values: Mapping[str, Any]) -> Config:
    """A configuration with some values replaced, validated again.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    merged, origins = config.model_dump(mode="json"), dict[str, str]()
    for key, value in values.items():
        _set(merged, origins, key, value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, COMMAND_LINE)) from None


def recipe_path(path_or_name: str | Path) -> Path:
    """Finds a configuration file, or a shipped recipe by its name below ``configs/``."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    root = _recipe_folder()
    for candidate in (root / path, root / f"{path}.yaml"):
        if not path.is_absolute() and candidate.is_file():
            return candidate
    if path.exists():
        raise ConfigError(f"{path}: is not a file; give a YAML file or the name of a recipe")
    names = recipe_names()
    near = difflib.get_close_matches(path.with_suffix("").as_posix(), names, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"recipes: {', '.join(names)}"
    raise ConfigError(f"{path}: there is no such configuration file or recipe; {hint}")


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted: ``yolov6n``, ``mbla/yolov6s_mbla``."""
    root = _recipe_folder()
    paths = (path.relative_to(root) for path in root.rglob("*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in paths if path.parts[0] != "data")


def _recipe_folder() -> Path:
    shipped = resources.files("yolov6_ignite") / "configs"
    return Path(str(shipped)) if shipped.is_dir() else Path(__file__).resolve().parent.parent / "configs"


def dump_config(config: Config) -> str:
    """The whole configuration as YAML that :func:`load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: its `base:` files lead back to itself")
    values, origins = _read(path)
    base = values.pop("base", None)
    if base is None:
        return values, origins
    origin = origins.pop("base", str(path))
    if not isinstance(base, str):
        raise ConfigError(f"{origin}: base: expected one file or recipe name, found {base!r}")
    beside = path.parent / base
    merged, merged_origins = _read_with_bases(
        beside if beside.is_file() else recipe_path(base), (*seen, path.resolve())
    )
    for key, value in _leaves(values):
        _set(merged, merged_origins, key, value, origins[key])
    return merged, merged_origins


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """One file as nested dictionaries, with the line of every leaf."""
    origins: dict[str, str] = {}

    def build(mapping: yaml.MappingNode, prefix: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in mapping.value:
            key = str(loader.construct_object(key_node))
            where = f"{path}:{key_node.start_mark.line + 1}"
            if key in result:
                raise ConfigError(f"{where}: {prefix}{key} is given twice; keep one")
            if isinstance(value_node, yaml.MappingNode) and value_node.value:
                result[key] = build(value_node, f"{prefix}{key}.")
            else:
                result[key] = loader.construct_object(value_node, deep=True)
                origins[prefix + key] = where
        return result

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected a mapping of sections (model, data, train, ...)")
        return build(node, ""), origins
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: is not valid YAML ({_first_line(error)})") from error


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(values: dict[str, Any], origins: dict[str, str], dotted: str, value: Any, origin: str = COMMAND_LINE) -> None:
    *sections, leaf = dotted.split(".")
    target = values
    for section in sections:
        child = target.setdefault(section, {})
        if not isinstance(child, dict):  # a scalar where a section belongs: validation names it
            child = target[section] = {}
        target = child
    target[leaf] = value
    for key in [key for key in origins if key.startswith(f"{dotted}.")]:
        del origins[key]
    origins[dotted] = origin


def _explain(error: ValidationError, origins: Mapping[str, str], name: str) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"] if not _is_union_branch(str(part))]
        key = ".".join(location)
        where = _origin(location, origins) or name
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_did_you_mean(location)}"
        elif problem["type"] == "missing":
            text = "is required"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            text = message[0].lower() + message[1:] if key else message
            if key and not isinstance(given, (dict, BaseModel)):
                text += f" (found {given!r})"
        lines.append(f"{where}: {key}: {text}" if key else f"{where}: {text}")
    return "\n".join(dict.fromkeys(lines))


def _is_union_branch(part: str) -> bool:
    """Whether pydantic put this into a location to say which type of a union was tried."""
    return part in {"int", "constrained-int", "none"} or part.startswith(("tuple[", "function-"))


def _origin(location: Sequence[str], origins: Mapping[str, str]) -> str | None:
    for length in range(len(location), 0, -1):
        prefix = ".".join(location[:length])
        for key, origin in origins.items():
            if key == prefix or key.startswith(f"{prefix}."):
                return origin
    return None


def _did_you_mean(location: Sequence[str]) -> str:
    known = {key: key.rsplit(".", 1)[-1] for key in _known_keys(Config)}
    near = [key for key, leaf in known.items() if leaf == location[-1]]  # the right name in the wrong section
    if not near:
        near = difflib.get_close_matches(".".join(location), known, n=1, cutoff=0.7)
    if not near:
        similar = difflib.get_close_matches(location[-1], known.values(), n=1, cutoff=0.8)
        near = [key for key, leaf in known.items() if leaf in similar]
    return f"; did you mean {' or '.join(near)}?" if near else f"; the sections are {', '.join(Config.model_fields)}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotations = [field.annotation, *get_args(field.annotation)]
        sections = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        yield prefix + name
        for section in sections:
            yield from _known_keys(section, f"{prefix}{name}.")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
