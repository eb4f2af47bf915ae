"""Where a run lives, and what a resumed run may change."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from yolov6_ignite.checkpoint import read_checkpoint, read_newest
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError

__all__ = ["RunDirectory", "choose_run_directory", "config_differences", "refuse_other_run"]

logger = logging.getLogger(__name__)

MAY_DIFFER = (
    *("train.epochs", "train.device", "train.devices", "data.workers", "data.cache", "data.recheck"),
    *("train.time_limit", "train.patience", "train.minimum_change", "train.profile", "data.memory_fraction"),
    # Not read again, and the teacher by what it holds.
    *("train.weights", "model.scales", "distill.teacher", "quant.calibrated"),
)
SECTIONS_THAT_MAY_DIFFER = ("eval.", "logging.", "checkpoint.")
SAYS_WHERE = ("train.resume", "train.output_dir", "train.name")


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder and what it continues from.

    Attributes:
        path: the folder; it need not exist yet.
        resumed_from: the checkpoint's content, None for a fresh run.
    """

    path: Path
    resumed_from: dict[str, Any] | None

    def make(self) -> None:
        """Makes the folder, once nothing else stands against the run.

        Raises:
            ConfigError: it cannot be made or written.
        """
        try:
            self.weights.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"train.output_dir: {self.path} cannot be made ({error.strerror}); choose another train.output_dir"
            ) from error
        for folder in (self.path, self.weights):
            if not os.access(folder, os.W_OK):
                raise ConfigError(f"train.output_dir: {folder} cannot be written to; choose another train.output_dir")

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def finished(self) -> bool:
        """Whether the checkpoints are stripped already."""
        return (self.weights / "final.pt").is_file()


def choose_run_directory(config: Config) -> RunDirectory:
    """Finds the run's folder by ``train.resume``, ``train.output_dir`` and ``train.name``; makes nothing.

    Raises:
        ConfigError: there is nothing to resume from.
    """
    train = config.train
    content: dict[str, Any] | None = None
    if train.resume == "none":
        path = _next_free(Path(train.output_dir), train.name)
        if path.name != train.name:
            logger.warning("%s is there already; this run is %s", path.with_name(train.name), path)
    elif train.resume == "auto":
        path = Path(train.output_dir) / train.name
        content = read_newest(path / "weights" / "last_ckpt.pt", on_damage=logger.warning)
    else:
        source = Path(train.resume)
        source = source / "weights" / "last_ckpt.pt" if source.is_dir() else source
        content = read_checkpoint(source)
        path = source.resolve().parent.parent
        if source.resolve().parent.name != "weights" or not (path / "config.yaml").is_file():
            raise ConfigError(
                f"train.resume: {source} is not in the `weights` folder of a run, so there is nowhere to go on; "
                "give the run's own last_ckpt.pt or folder, or start a new run from it with train.weights"
            )
    if content is not None and content["kind"] != "training":
        raise ConfigError(
            f"train.resume: {train.resume} is stripped to its weights, so there is no run to continue; "
            "resume from last_ckpt.pt, or start from these weights with train.weights"
        )
    return RunDirectory(path, content)


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines ``key: before -> now`` of what a resumed run changes although it may not."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        f"  {key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key not in MAY_DIFFER + SAYS_WHERE
        and not key.startswith(SECTIONS_THAT_MAY_DIFFER)
    ]


def refuse_other_run(
    content: Mapping[str, Any],
    config: Config,
    run_dir: Path,
    *,
    names: Sequence[str],
    data: Mapping[str, str],
    teacher: str | None,
    epoch_length: int,
) -> None:
    """Verifies that what is put together is the run that a checkpoint is of.

    Args:
        content: the checkpoint.
        config: of the run now.
        run_dir: its folder, for the message.
        names: class names.
        data: fingerprints of the data set's splits.
        teacher: fingerprint of the teacher's weights.
        epoch_length: iterations in an epoch.

    Raises:
        ConfigError: something differs that may not.
    """
    differences = config_differences(content["config"], config.model_dump(mode="json"))
    if content["names"] != list(names):
        differences.append(f"  class names: {content['names']} -> {list(names)}")
    if content["data"] != data:
        differences.append("  the data set's files or labels have changed")
    if content.get("teacher") != teacher:
        differences.append("  the weights of distill.teacher have changed")
    if content["world_size"] != idist.get_world_size():
        differences.append(f"  number of ranks: {content['world_size']} -> {idist.get_world_size()}")
    if content["engine"]["epoch_length"] != epoch_length:
        differences.append(f"  iterations an epoch: {content['engine']['epoch_length']} -> {epoch_length}")
    if differences:
        raise ConfigError(
            f"{run_dir}: this is not the run that its checkpoint is of:\n" + "\n".join(differences) + "\n"
            "undo the changes to resume it, or start a new run (train.resume=none)"
        )


def _next_free(parent: Path, name: str) -> Path:
    names = (name if number == 1 else f"{name}{number}" for number in count(1))
    return next(path for path in (parent / name for name in names) if not os.path.lexists(path))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
