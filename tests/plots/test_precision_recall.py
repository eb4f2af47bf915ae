"""The precision-recall chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from yolov6_ignite.plots import class_colour, precision_recall_curve


@dataclass
class Accuracy:
    name: str
    ap50: float


@dataclass
class Result:
    per_class: list[Accuracy]
    precision_at_iou50: np.ndarray
    map50: float


def result(*levels: float, name: str = "class") -> Result:
    """Every class has the same precision at all recalls."""
    precision = np.tile(np.array(levels, dtype=float), (101, 1))
    kinds = [Accuracy(f"{name} {i}", level) for i, level in enumerate(levels)]
    return Result(kinds, precision, float(np.mean([level for level in levels if level >= 0] or [-1.0])))


def row_of(chart: np.ndarray, colour: tuple[int, int, int], column: int = 450) -> float:
    """Line of the chart in which a column has a colour."""
    lines = np.flatnonzero((np.abs(chart[:, column].astype(int) - colour) <= 2).all(axis=1))
    assert len(lines), "the curve is not there"
    return float(lines.mean())


def test_curves_are_as_high_as_their_precision_and_the_mean_is_between():
    chart = precision_recall_curve(result(0.85, 0.25))
    assert chart.shape == (800, 1200, 3)
    assert chart.dtype == np.uint8
    high, low, mean = row_of(chart, class_colour(0)), row_of(chart, class_colour(1)), row_of(chart, (20, 20, 20))
    assert mean == pytest.approx((high + low) / 2, abs=1.5)
    assert low - high == pytest.approx(0.6 * (1400 - 110) / 2, abs=2)


def test_a_class_without_ground_truth_has_no_curve_and_does_not_count():
    chart = precision_recall_curve(result(0.85, -1.0, 0.25))
    with pytest.raises(AssertionError, match="not there"):
        row_of(chart, class_colour(1))
    assert row_of(chart, (20, 20, 20)) == pytest.approx(
        row_of(precision_recall_curve(result(0.55)), (20, 20, 20)), abs=1
    )


def test_only_up_to_20_classes_have_a_legend():
    def legend(count: int) -> np.ndarray:
        return (precision_recall_curve(result(*[0.5] * count))[100:, 900:] < 128).any(axis=(1, 2))

    assert legend(20).sum() > 150
    assert not legend(21).any()


@pytest.mark.parametrize("name", ["ä" * 300, "W" * 300, ""])
def test_names_do_not_reach_the_edge(name: str):
    chart = precision_recall_curve(result(0.5, 0.6, name=name))
    assert (chart[:, -10:] == 255).all()


@pytest.mark.parametrize("levels", [(-1.0,), (-1.0, -1.0), (0.0,), (1.0,), (0.5,) * 80])
def test_extreme_results_are_drawn(levels: tuple[float, ...]):
    assert precision_recall_curve(result(*levels)).shape == (800, 1200, 3)


def test_the_result_is_not_written_to():
    shown = result(0.5, -1.0)
    before = shown.precision_at_iou50.copy()
    precision_recall_curve(shown)
    assert (shown.precision_at_iou50 == before).all()
