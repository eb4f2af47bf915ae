"""The checkpoint format: plain data, whole or absent.

A checkpoint is a dictionary of tensors and plain values in torch's zip format, so that
``torch.load(path, weights_only=True)`` reads it and nothing in it can run. It is written beside its name, flushed
and renamed; every record carries a CRC-32, which :func:`read_checkpoint` verifies.

Keys of every file: ``format``, ``version``, ``kind`` (``training`` or ``weights``), ``config``, ``names``,
``metrics``, ``epoch`` (finished epochs). ``kind: weights`` adds ``model`` (averaged weights, fp16);
``kind: training`` adds the run's whole state (:mod:`yolov6_ignite.training`).
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from yolov6_ignite.errors import ConfigError

__all__ = [
    "averaged_weights",
    "previous_generation",
    "read_checkpoint",
    "read_newest",
    "strip_checkpoint",
    "write_atomically",
    "write_checkpoint",
    "write_text",
    "write_weights",
]

FORMAT = "yolov6-ignite"
VERSION = 1


def write_checkpoint(path: Path, content: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: destination.
        content: tensors and plain values; ``format`` and ``version`` are added.
        keep_previous: keep what stood at ``path`` as :func:`previous_generation`.

    Raises:
        ConfigError: the file system refuses (full disk, no permission); ``path`` is as before.
    """
    whole = {"format": FORMAT, "version": VERSION, **content}
    _require_plain(whole, path.name)
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


def _require_plain(value: Any, where: str) -> None:
    """Refuses what could be written but not be read back safely, before it is written.

    Raises:
        TypeError: not a tensor, a plain value or a container of them; names the place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}.{index}")
    elif not isinstance(value, torch.Tensor) and type(value) not in (type(None), bool, int, float, str):
        raise TypeError(f"{where}: a checkpoint cannot hold a {type(value).__name__}; use tensors and plain values")


def previous_generation(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is kept: ``last_ckpt.previous.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours onto the CPU and verifies it.

    Raises:
        ConfigError: there is no such file, it is damaged, or it is no checkpoint of this project.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ConfigError(f"{path}: is damaged ({damaged} does not match its checksum); use an earlier checkpoint")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        raise ConfigError(f"{path}: is not a checkpoint, or it is damaged ({error})") from error
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        asked = f" (it asks for {name[1]})" if name else ""
        raise ConfigError(
            f"{path}: holds more than tensors and plain values{asked}, so it is not a checkpoint of this project; "
            "nothing in it was run"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: is not a checkpoint of this project")
    if content["version"] > VERSION:
        raise ConfigError(f"{path}: was written by a newer version of this project (format {content['version']})")
    if content.get("kind") not in {"training", "weights"}:
        raise ConfigError(f"{path}: holds no weights")
    return content


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
) -> None:
    """Writes a checkpoint of ``kind: weights``, in fp16.

    Raises:
        ConfigError: the file system refuses.
    """
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    whole = {"kind": "weights", "model": half, "config": config, "names": list(names), "metrics": metrics}
    write_checkpoint(path, {**whole, "epoch": epoch})


def strip_checkpoint(source: Path, destination: Path) -> None:
    """Reduces a training checkpoint to its averaged weights in fp16; a stripped one stays as it is.

    Raises:
        ConfigError: the source cannot be read or the destination not be written.
    """
    content = read_checkpoint(source)
    if content["kind"] == "training":
        kept = {key: content[key] for key in ("config", "names", "metrics", "epoch")}
        write_weights(destination, state=content["ema"], **kept)
    elif source != destination:
        write_checkpoint(destination, content)
