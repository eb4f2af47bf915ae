"""Stripping checkpoints to what inference needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import is_complete, train_state

__all__ = ["StripCheckpoints"]


class StripCheckpoints:
    """Reduces a finished run's checkpoints to their weights and writes ``final.pt``.

    Acts on ``COMPLETED`` of a run that is complete, on rank 0. ``last_ckpt.pt`` stays whole, so that a finished run can
    be extended. ``final.pt`` is written last: it says that the run is finished. Keeps no state.

    Args:
        folder: the run's ``weights`` folder.
        strip: reduces a checkpoint in place; one that is stripped already stays as it is.
        write_final: writes the weights as they are at the end.
    """

    def __init__(self, folder: Path, strip: Callable[[Path], None], write_final: Callable[[Path], None]) -> None:
        self.folder = folder
        self.strip = strip
        self.write_final = write_final

    def attach(self, engine: Engine) -> None:
        train_state(engine).finish = self.run  # for a resumed run that was cut off while stripping
        engine.add_event_handler(Events.COMPLETED(event_filter=self._is_complete), self)

    def detach(self, engine: Engine) -> None:
        """Without it, checkpoints stay whole."""
        train_state(engine).finish = lambda: None

    def __call__(self, engine: Engine) -> None:
        self.run()

    def run(self) -> None:
        """Strips all checkpoints but the last, then writes ``final.pt``."""
        for path in sorted(self.folder.glob("*_ckpt.pt")):
            if path.name != "last_ckpt.pt":
                self.strip(path)
        self.write_final(self.folder / "final.pt")

    def _is_complete(self, engine: Engine, event: int) -> bool:
        return is_complete(train_state(engine))
