"""Stripping checkpoints to what inference needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ignite.engine import Engine, Events

__all__ = ["StripCheckpoints"]


class StripCheckpoints:
    """Reduces a finished run's checkpoints to their weights and writes ``final.pt``.

    Acts on ``COMPLETED``, on rank 0. ``last_ckpt.pt`` stays whole, so that a finished run can be extended.
    ``final.pt`` is written last: it says that the run is finished. Keeps no state.

    Args:
        folder: the run's ``weights`` folder.
        strip: ``(source, destination)``; a source that is stripped already stays as it is.
    """

    def __init__(self, folder: Path, strip: Callable[[Path, Path], None]) -> None:
        self.folder = folder
        self.strip = strip

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.run()

    def run(self) -> None:
        """Strips; also what a resumed run calls when it was cut off while stripping."""
        for path in sorted(self.folder.glob("*_ckpt.pt")):
            if path.name != "last_ckpt.pt":
                self.strip(path, path)
        self.strip(self.folder / "last_ckpt.pt", self.folder / "final.pt")
