"""The chart of a run."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from yolov6_ignite.plots import class_colour, training_curves


def history(epochs: int, evaluated_every: int = 0) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for epoch in range(epochs):
        row = {"epoch": epoch, "train/iou_loss": 2.0 / (epoch + 1), "train/dfl_loss": 0.0, "train/cls_loss": 1.0}
        if evaluated_every and epoch % evaluated_every == evaluated_every - 1:
            row |= {"val/mAP@0.5": 0.6, "val/mAP@0.50:0.95": 0.3}
        rows.append(row | {"x/lr0": 0.01})
    return rows


def inked(chart: np.ndarray, colour_index: int, left: int, right: int) -> np.ndarray:
    """Pixels of a colour inside one panel's axes, without the legend above."""
    return (np.abs(chart[98:555, left:right].astype(int) - class_colour(colour_index)) <= 3).all(axis=2)


def losses(chart: np.ndarray, index: int) -> np.ndarray:
    return inked(chart, index, 92, 768)


def accuracy(chart: np.ndarray, index: int) -> np.ndarray:
    return inked(chart, 3 + index, 892, 1568)


@pytest.mark.parametrize(("epochs", "every"), [(0, 0), (1, 0), (1, 1), (2, 2), (12, 1), (400, 20)])
def test_any_number_of_epochs_is_drawn(epochs: int, every: int):
    chart = training_curves(history(epochs, every))
    assert chart.shape == (640, 1600, 3)
    assert chart.dtype == np.uint8
    for index in range(2):
        assert losses(chart, index).any() == (epochs > 0)
        assert accuracy(chart, index).any() == (every > 0)


def test_a_loss_that_is_always_zero_is_left_out():
    chart = training_curves(history(10))
    assert losses(chart, 1).any()  # the classification loss is the second one
    assert not losses(chart, 2).any()
    rows = history(10)
    rows[3]["train/dfl_loss"] = 0.5
    assert losses(training_curves(rows), 2).any()


def test_rows_without_accuracy_are_skipped_and_the_line_goes_on():
    columns = np.flatnonzero(accuracy(training_curves(history(10, 4)), 0).any(axis=0))
    assert len(columns) == columns[-1] - columns[0] + 1  # unbroken from epoch 3 to epoch 7
    assert columns[-1] - columns[0] == pytest.approx(4 / (9 * 1.04) * 680, abs=15)


def test_heights_are_in_proportion():
    chart = training_curves(history(10, 1))
    high, low = (float(np.nonzero(accuracy(chart, index))[0].mean()) for index in range(2))
    bottom = 560 - 98
    assert (bottom - high) / (bottom - low) == pytest.approx(2, rel=0.03)


def test_values_that_are_not_finite_break_a_curve():
    rows = history(11)
    rows[5]["train/cls_loss"] = math.nan
    rows[6]["train/cls_loss"] = math.inf
    columns = losses(training_curves(rows), 1).any(axis=0)
    assert columns[:250].any()
    assert columns[500:].any()
    assert not columns[320:420].any()


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_extreme_values_are_drawn(value: float):
    rows = [{"epoch": 0, "train/iou_loss": value, "val/mAP@0.5": value, "val/mAP@0.50:0.95": 0.0}]
    assert training_curves(rows).shape == (640, 1600, 3)


def test_the_history_is_not_written_to():
    rows = history(5, 2)
    before = copy.deepcopy(rows)
    training_curves(rows)
    assert rows == before
