from __future__ import annotations

from pathlib import Path

import pytest
from ignite.engine import Engine
from yolov6_ignite.handlers import EpochCheckpoints, LastCheckpoint, StripCheckpoints, register_train_events


def saved_at(every_iterations: int, epochs: int = 2) -> list[tuple[str, int]]:
    saved: list[tuple[str, int]] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    save = lambda path: saved.append((path.name, engine.state.iteration))  # noqa: E731
    LastCheckpoint(Path("last_ckpt.pt"), save, every_iterations=every_iterations).attach(engine)
    EpochCheckpoints(Path("weights"), save, last_n_epochs=1).attach(engine)
    engine.run(range(4), max_epochs=epochs)
    return saved


def test_epoch_ends_and_the_last_epochs() -> None:
    assert saved_at(0) == [("last_ckpt.pt", 4), ("last_ckpt.pt", 8), ("1_ckpt.pt", 8)]


@pytest.mark.parametrize(("every", "inside"), [(3, [3, 6]), (2, [2, 6]), (4, [])])
def test_iterations_inside_an_epoch_but_never_its_last(every: int, inside: list[int]) -> None:
    iterations = [iteration for name, iteration in saved_at(every) if name == "last_ckpt.pt"]
    assert iterations == sorted([*inside, 4, 8])


def test_strip_writes_final_last_and_leaves_the_resumable_file(tmp_path: Path) -> None:
    for name in ("last_ckpt.pt", "last_ckpt.previous.pt", "best_ckpt.pt", "3_ckpt.pt"):
        (tmp_path / name).touch()
    calls: list[str] = []
    StripCheckpoints(tmp_path, lambda path: calls.append(path.name), lambda path: calls.append(path.name)).run()
    assert calls == ["3_ckpt.pt", "best_ckpt.pt", "final.pt"]
