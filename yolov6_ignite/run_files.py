"""Files of a run beside its checkpoints: its log, its TensorBoard events, and why it stopped."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite.distributed as idist
from torch.utils.tensorboard import SummaryWriter

from yolov6_ignite.checkpoint import write_text

__all__ = ["LazyWriter", "RunLog", "write_stop_reason"]

PACKAGE_LOGGER = logging.getLogger("yolov6_ignite")


class RunLog:
    """Collects what is logged while a run is put together, and then writes it, and all that follows, to its file.

    A run that is refused leaves no file.
    """

    def __enter__(self) -> RunLog:
        for handler in [h for h in PACKAGE_LOGGER.handlers if isinstance(h, logging.FileHandler)]:
            PACKAGE_LOGGER.removeHandler(handler)  # of a run built earlier in this process
            handler.close()
        if idist.get_rank() == 0:  # the others say what goes wrong, on the console
            PACKAGE_LOGGER.setLevel(min(PACKAGE_LOGGER.level or logging.INFO, logging.INFO))
        self._early = MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        PACKAGE_LOGGER.addHandler(self._early)
        return self

    def write_to(self, path: Path) -> None:
        """Starts the file with what has been collected."""
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._early.setTarget(file)
        self._early.flush()
        PACKAGE_LOGGER.addHandler(file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        PACKAGE_LOGGER.removeHandler(self._early)
        self._early.setTarget(None)
        self._early.close()


class LazyWriter:
    """A ``SummaryWriter`` whose file is made with the first thing that is written.

    Args:
        folder: where the events file goes.
        first_step: events of this step and later ones, of a run that was cut off there, are superseded.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self.folder = folder
        self.first_step = first_step

    @cached_property
    def _writer(self) -> SummaryWriter:
        return SummaryWriter(str(self.folder), purge_step=self.first_step)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self._writer.add_scalar(tag, scalar_value, global_step)

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        self._writer.add_image(tag, img_tensor, global_step, dataformats=dataformats)

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


def write_stop_reason(run_dir: Path, exit_code: int, reason: str) -> None:
    """Writes ``stopped.json``: what a launcher that knows only 0 and 1 cannot tell."""
    write_text(run_dir / "stopped.json", json.dumps({"exit_code": exit_code, "reason": reason}) + "\n")
