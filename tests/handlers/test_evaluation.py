from __future__ import annotations

from typing import Any

import pytest
from yolov6_ignite.handlers import BestCheckpoint, Evaluation, GradientAccumulation, History, ModelEMA, TrainEvents
from yolov6_ignite.handlers.evaluation import evaluated_epochs
from yolov6_ignite.handlers.loss_means import LossMeans


def test_reference_schedule() -> None:
    epochs = evaluated_epochs(400, interval=20, heavy_range=50)
    assert epochs == [*range(20, 341, 20), *range(351, 400, 3), 400]
    assert evaluated_epochs(8, interval=20, heavy_range=50) == [3, 6, 8]
    assert evaluated_epochs(8, interval=2, heavy_range=50) == [2, 4, 6, 8]
    assert evaluated_epochs(8, interval=1, heavy_range=0, final_only=True) == [8]


def run(toy: Any, scores: list[float], tmp_path: Any, **best: Any) -> tuple[list[int], History, BestCheckpoint]:
    saved: list[int] = []
    values = iter(scores)
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    ModelEMA(toy.model).attach(toy.engine)
    LossMeans().attach(toy.engine)
    Evaluation(lambda model: {"val/AP": next(values)}, interval=1, heavy_range=0).attach(toy.engine)
    history = History(tmp_path / "metrics.csv", toy.optimizer, lambda path, text: path.write_text(text))
    history.attach(toy.engine)
    checkpoint = BestCheckpoint(
        tmp_path / "best.pt", lambda path: saved.append(toy.engine.state.epoch), metric="val/AP", **best
    )
    checkpoint.attach(toy.engine)
    toy.engine.run(toy.batches(2), max_epochs=len(scores))
    return saved, history, checkpoint


def test_best_takes_ties_and_zero(toy: Any, tmp_path: Any) -> None:
    saved, _, checkpoint = run(toy, [0.0, 0.5, 0.4, 0.5, 0.3], tmp_path)
    assert saved == [1, 2, 4]
    assert checkpoint.state_dict() == {"score": 0.5}


def test_best_after_the_cutoff_counts_only_from_there(toy: Any, tmp_path: Any) -> None:
    saved, _, _ = run(toy, [0.9, 0.8, 0.3, 0.3, 0.4], tmp_path, first_epoch=3, ties=False)
    assert saved == [3, 5]


def test_a_resumed_best_is_not_overwritten_by_a_worse_model(toy: Any, tmp_path: Any) -> None:
    checkpoint = BestCheckpoint(tmp_path / "b.pt", lambda path: pytest.fail("saved"), metric="val/AP")
    checkpoint.load_state_dict({"score": 0.7})
    checkpoint.attach(toy.engine)
    toy.engine.state.validation = {"epoch": 1, "val/AP": 0.6}
    toy.engine.state.epoch = 1
    toy.engine.fire_event(TrainEvents.VALIDATION_COMPLETED)


def test_metrics_file(toy: Any, tmp_path: Any) -> None:
    _, history, _ = run(toy, [0.25, 0.5], tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,train/iou_loss,train/cls_loss,val/AP,x/lr0"
    assert len(lines) == 3
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert float(first["val/AP"]) == 0.25
    assert float(first["train/cls_loss"]) == pytest.approx(2 * float(first["train/iou_loss"]))
    assert history.rows[1]["epoch"] == 2


def test_an_epoch_without_evaluation_has_empty_cells(toy: Any, tmp_path: Any) -> None:
    history = History(None, toy.optimizer, lambda path, text: pytest.fail("written"))
    history.rows[:] = [{"epoch": 1, "a": 0.5, "x": 1.0}, {"epoch": 2, "a": 0.25, "v": 3.0, "x": 1.0}]
    assert history.to_csv() == "epoch,a,v,x\n1,0.5,,1.0\n2,0.25,3.0,1.0\n"
