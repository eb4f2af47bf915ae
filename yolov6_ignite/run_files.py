"""Files of a run beside its checkpoints: its log, its TensorBoard events, and why it stopped."""

from __future__ import annotations

import json
import logging
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
            _show_progress()
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


class LazyWriter(SummaryWriter):
    """A ``SummaryWriter`` whose file is made with the first thing that is written.

    Args:
        folder: where the events file goes.
        first_step: events of this step and later ones, of a run that was cut off there, are superseded.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._ready = False
        super().__init__(str(folder), purge_step=first_step)
        self._ready = True

    def _get_file_writer(self) -> Any:
        return super()._get_file_writer() if self._ready else None


def _show_progress() -> None:
    """Makes a run in a notebook or a script show what the command shows, unless the user has set up logging."""
    if PACKAGE_LOGGER.level == logging.NOTSET:
        PACKAGE_LOGGER.setLevel(logging.INFO)
        if not PACKAGE_LOGGER.hasHandlers():
            console = logging.StreamHandler()
            console.setFormatter(logging.Formatter("%(message)s"))
            PACKAGE_LOGGER.addHandler(console)


def write_stop_reason(run_dir: Path, exit_code: int, reason: str) -> None:
    """Writes ``stopped.json``: what a launcher that knows only 0 and 1 cannot tell."""
    write_text(run_dir / "stopped.json", json.dumps({"exit_code": exit_code, "reason": reason}) + "\n")
