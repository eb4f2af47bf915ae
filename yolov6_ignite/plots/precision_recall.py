"""Precision over recall at IoU 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from yolov6_ignite.plots.chart import Entry, Panel, blank, finish, legend_column, nice_ticks
from yolov6_ignite.plots.palette import class_colour
from yolov6_ignite.plots.text import shorten

__all__ = ["ClassAccuracy", "PrecisionRecall", "precision_recall_curve"]

_SIZE_PX = (1200, 800)
_LEGEND_CLASSES = 20  # more would not fit beside the axes
_MEAN_COLOUR = (20, 20, 20)


class ClassAccuracy(Protocol):
    """Accuracy of one class."""

    @property
    def name(self) -> str: ...

    @property
    def ap50(self) -> float: ...


class PrecisionRecall(Protocol):
    """What of an evaluation's result is drawn.

    Attributes:
        per_class: the classes, in the order of the columns.
        precision_at_iou50: (101, classes) precision at recall 0, 0.01, ..., 1; -1 for a class without ground truth.
        map50: mean AP at IoU 0.5.
    """

    @property
    def per_class(self) -> Sequence[ClassAccuracy]: ...

    @property
    def precision_at_iou50(self) -> np.ndarray: ...

    @property
    def map50(self) -> float: ...


def precision_recall_curve(result: PrecisionRecall) -> np.ndarray:
    """Chart of the precision of every class and of their mean.

    Classes without ground truth have no curve and do not count in the mean. With more than 20 classes the legend
    has the mean only.

    Args:
        result: of an evaluation.

    Returns:
        uint8 (800, 1200, 3), RGB.
    """
    canvas = blank(*_SIZE_PX)
    ticks = nice_ticks(0.0, 1.0, 10)
    panel = Panel(canvas, left=190, top=110, right=1740, bottom=1400, x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    panel.title("Precision-recall at IoU 0.50")
    panel.axes("Recall", "Precision", ticks, ticks)
    precision = np.asarray(result.precision_at_iou50, dtype=float)
    recall = np.linspace(0.0, 1.0, len(precision))
    many = precision.shape[1] > _LEGEND_CLASSES
    present = [i for i in range(precision.shape[1]) if (precision[:, i] >= 0).all()]
    for i in present:
        panel.curve(recall, precision[:, i], class_colour(i), 2 if many else 4)
    if present:
        panel.curve(recall, precision[:, present].mean(axis=1), _MEAN_COLOUR, 9)
    else:
        panel.note("no ground truth")
    entries = [Entry(f"mean  {_score(result.map50)}", _MEAN_COLOUR, 9)]
    if not many:
        entries += [
            Entry(f"{shorten(kind.name, 18)}  {_score(kind.ap50)}", class_colour(i), 4)
            for i, kind in enumerate(result.per_class)
        ]
    legend_column(canvas, entries, 1790, 130, 590)
    return finish(canvas)


def _score(average_precision: float) -> str:
    return f"{average_precision:.3f}" if average_precision >= 0 else "n/a"
