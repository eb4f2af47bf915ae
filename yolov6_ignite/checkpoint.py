"""The checkpoint format: plain data, whole or absent.

A checkpoint is a dictionary of tensors and plain values in torch's zip format, so that
``torch.load(path, weights_only=True)`` reads it and nothing in it can run. It is written beside its name, flushed
and renamed. :func:`read_checkpoint` trusts nothing: it reads with :mod:`yolov6_ignite.restricted_pickle`, which
verifies the CRC-32 of every record and makes no more of a file than its bytes, and checks the keys below.

Keys of every file: ``format``, ``version``, ``kind`` (``training`` or ``weights``), ``config``, ``names``,
``metrics``, ``epoch`` (finished epochs), ``model``. ``kind: weights`` has averaged weights there, in fp16;
``kind: training`` adds ``ema`` and the run's whole state (:mod:`yolov6_ignite.training`). A quantised model has its
specification (:class:`~yolov6_ignite.quantization.QuantizationSpec`) as ``quantization`` and stays in fp32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.restricted_pickle import is_readable, read_archive

__all__ = [
    "averaged_weights",
    "checked_checkpoint",
    "is_checkpoint",
    "previous_generation",
    "read_checkpoint",
    "read_newest",
    "strip_checkpoint",
    "to_plain",
    "write_atomically",
    "write_checkpoint",
    "write_text",
    "write_weights",
]

FORMAT = "yolov6-ignite"
VERSION = 1
PLAIN = (type(None), bool, int, float, str)
MAX_SETTINGS = 100_000  # numbers and texts in a configuration, which has 300 but for those of a user's handlers
MAX_SETTINGS_DEPTH = 32


def write_checkpoint(path: Path, content: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: destination.
        content: tensors and plain values; ``format`` and ``version`` are added.
        keep_previous: keep what stood at ``path`` as :func:`previous_generation`.

    Raises:
        ConfigError: the file system refuses (full disk, no permission); ``path`` is as before.
    """
    whole = to_plain({"format": FORMAT, "version": VERSION, **content}, path.name)
    write_atomically(path, lambda file: torch.save(whole, file), keep_previous=keep_previous)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically (UTF-8)."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, write: Callable[[BinaryIO], Any], *, keep_previous: bool = False) -> None:
    """Calls ``write`` on a temporary file beside ``path``, flushes it to disk and renames it.

    Raises:
        ConfigError: the file system refuses; ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if keep_previous and path.exists():
                os.replace(path, previous_generation(path))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise  # torch's zip writer turns a full disk into a RuntimeError; others are not about the file
        raise ConfigError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error


def to_plain(value: Any, where: str) -> Any:
    """A value as a checkpoint can hold it, with numpy's scalars as Python's; tensors are not copied.

    Raises:
        TypeError: it could be written but not be read back safely: not a tensor, a plain value or a container of
            them; names the place.
    """
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: a checkpoint cannot hold a key that is a {type(key).__name__}; use texts")
        return {key: to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_plain(item, f"{where}.{index}") for index, item in enumerate(value))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, torch.Tensor):
        if not is_readable(value):
            raise TypeError(
                f"{where}: a checkpoint cannot hold an expanded, sparse or {value.dtype} tensor; convert it"
            )
    elif type(value) not in PLAIN:
        raise TypeError(f"{where}: a checkpoint cannot hold a {type(value).__name__}; use tensors and plain values")
    return value


def previous_generation(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is kept: ``last_ckpt.previous.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours onto the CPU and verifies it; nothing in it is run.

    Raises:
        ConfigError: there is no such file, it is damaged, or it is no checkpoint of this project.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such checkpoint")
    return checked_checkpoint(path, read_archive(path))


def is_checkpoint(content: Any) -> bool:
    """Whether what a file holds says that it is a checkpoint of this project."""
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


def checked_checkpoint(path: Path, content: Any) -> dict[str, Any]:
    """What :func:`read_archive` found in a file, once every key that all checkpoints have is as it must be.

    Raises:
        ConfigError: it is no checkpoint of this project, or a key is missing or holds something else.
    """
    if not is_checkpoint(content):
        raise ConfigError(f"{path}: is not a checkpoint of this project")
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise ConfigError(f"{path}: was written by a newer version of this project (format {version}); update it")
    kind, names, epoch = content.get("kind"), content.get("names"), content.get("epoch")
    size = path.stat().st_size
    wrong = [
        key
        for key, right in {
            "version": type(version) is int and version >= 1,
            "kind": isinstance(kind, str) and kind in {"training", "weights"},
            "config": _is_settings(content.get("config")),
            "names": type(names) is list and len(names) > 0 and all(type(name) is str for name in names),
            "metrics": _is_settings(content.get("metrics")),
            "epoch": type(epoch) is int and epoch >= 0,
            "model": _is_state(content.get("model"), size),
            "ema": kind != "training" or _is_state(content.get("ema"), size),
            "quantization": content.get("quantization") is None or _is_settings(content["quantization"]),
        }.items()
        if not right
    ]
    if wrong:
        raise ConfigError(
            f"{path}: {', '.join(wrong)}: missing, or not what a checkpoint has there; use another copy of the file, "
            "or an earlier checkpoint"
        )
    whole: dict[str, Any] = content
    return whole


def _is_state(value: Any, max_bytes: int) -> bool:
    """Whether it is tensors by name, of at most so many bytes: a file can give one tensor thousands of names."""
    return (
        isinstance(value, dict)
        and all(isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in value.items())
        and sum(tensor.numel() * tensor.element_size() for tensor in value.values()) <= max_bytes
    )


def _is_settings(value: Any) -> bool:
    """Whether it is a dictionary of plain values, not too large or deep: a file can put one into itself."""
    if not isinstance(value, dict):
        return False
    left, waiting = MAX_SETTINGS, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        parts = [*item.keys(), *item.values()] if type(item) is dict else item if type(item) in (list, tuple) else ()
        left -= 1 + len(parts)
        if left < 0 or depth > MAX_SETTINGS_DEPTH or (type(item) not in (*PLAIN, dict, list, tuple)):
            return False
        waiting += [(part, depth + 1) for part in parts]
    return True


def read_newest(path: Path, on_damage: Callable[[str], None]) -> dict[str, Any] | None:
    """The checkpoint at ``path``, the generation before it when that one is damaged, None when there is neither."""
    failure: ConfigError | None = None
    for candidate in (path, previous_generation(path)):
        if candidate.exists():
            try:
                return read_checkpoint(candidate)
            except ConfigError as error:
                on_damage(str(error))
                failure = error
    if failure is not None:
        raise failure
    return None


def averaged_weights(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to use: the averaged ones of a training checkpoint, those of a stripped one; fp32."""
    weights = content["ema"] if content["kind"] == "training" else content["model"]
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def write_weights(
    path: Path,
    *,
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    names: Sequence[str],
    metrics: Mapping[str, float],
    epoch: int,
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint of ``kind: weights``, in fp16; a tensor with numbers beyond its range stays in fp32.

    With ``quantization``, the specification of a quantised model, all do: rounding would move weights to other
    integers.

    Raises:
        ConfigError: the file system refuses.
    """
    model = {key: value if quantization is not None else _reduced(value) for key, value in state.items()}
    whole = {"kind": "weights", "model": model, "config": config, "names": list(names), "metrics": metrics}
    write_checkpoint(path, {**whole, "epoch": epoch, "quantization": quantization})


def _reduced(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value.float()


def strip_checkpoint(path: Path) -> None:
    """Reduces a training checkpoint to its averaged weights, as :func:`write_weights` does; a stripped one stays.

    Raises:
        ConfigError: it cannot be read or written.
    """
    content = read_checkpoint(path)
    if content["kind"] == "training":
        kept = {key: content[key] for key in ("config", "names", "metrics", "epoch")}
        write_weights(path, state=content["ema"], quantization=content.get("quantization"), **kept)
