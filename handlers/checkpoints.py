"""Checkpoints: the last, the best, the best after the augmentation cutoff, the last epochs'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ignite.engine import Engine, Events
from yolov6_ignite.handlers.events import TrainEvents, require_event, train_state

__all__ = ["BestCheckpoint", "EpochCheckpoints", "LastCheckpoint"]

Save = Callable[[Path], None]


class LastCheckpoint:
    """Keeps ``last_ckpt.pt``, from which a run resumes.

    Acts, on every rank, on ``EPOCH_COMPLETED`` behind everything that changes the epoch's state, on
    ``ITERATION_COMPLETED`` every ``every_iterations`` (never at an epoch's last: its end comes first), and on
    ``TERMINATE``. Costs one write of the whole state. Keeps no state.

    Args:
        path: the file.
        save: writes the run's whole state to a path, atomically; every rank calls it, rank 0 writes.
        every_iterations: 0 for epoch ends only.
    """

    def __init__(self, path: Path, save: Save, *, every_iterations: int = 0) -> None:
        self.path = path
        self.save = save
        self.every_iterations = every_iterations

    def attach(self, engine: Engine) -> None:
        if self.every_iterations:
            engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=self._is_inside), self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.TERMINATE, self)

    def __call__(self, engine: Engine) -> None:
        self.save(self.path)

    def _is_inside(self, engine: Engine, iteration: int) -> bool:
        return iteration % self.every_iterations == 0 and iteration % train_state(engine).epoch_length != 0


class BestCheckpoint:
    """Keeps the checkpoint with the best accuracy.

    Acts on ``VALIDATION_COMPLETED``, on every rank. State: the best score, so that a resumed run does
    not overwrite a better model.

    Args:
        path: the file.
        save: writes the run's whole state to a path, atomically; every rank calls it, rank 0 writes.
        metric: its name in ``engine.state.validation``.
        first_epoch: 1-based; evaluations before it do not count.
        ties: whether an equal score replaces the file.
    """

    def __init__(self, path: Path, save: Save, *, metric: str, first_epoch: int = 1, ties: bool = True) -> None:
        self.path = path
        self.save = save
        self.metric = metric
        self.first_epoch = first_epoch
        self.ties = ties
        self.score: float | None = None

    def attach(self, engine: Engine) -> None:
        require_event(engine, TrainEvents.VALIDATION_COMPLETED, self, "attach Evaluation before it")
        engine.add_event_handler(TrainEvents.VALIDATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        score = train_state(engine).validation[self.metric]
        better = self.score is None or score > self.score or (self.ties and score == self.score)
        if train_state(engine).epoch < self.first_epoch or not better:
            return
        self.score = score
        self.save(self.path)

    def state_dict(self) -> dict[str, float | None]:
        """The best score, None before the first."""
        return {"score": self.score}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        self.score = state["score"]


class EpochCheckpoints:
    """Keeps ``{epoch}_ckpt.pt`` (0-based, as the reference names them) of the last epochs.

    Acts on ``EPOCH_COMPLETED``, on every rank. Keeps no state.

    Args:
        folder: where the files go.
        save: writes the run's whole state to a path, atomically; every rank calls it, rank 0 writes.
        last_n_epochs: how many epochs at the run's end.
    """

    def __init__(self, folder: Path, save: Save, *, last_n_epochs: int) -> None:
        self.folder = folder
        self.save = save
        self.last_n_epochs = last_n_epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if train_state(engine).epoch > train_state(engine).max_epochs - self.last_n_epochs:
            self.save(self.folder / f"{train_state(engine).epoch - 1}_ckpt.pt")
