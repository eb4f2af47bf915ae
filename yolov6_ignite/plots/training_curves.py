"""Losses and accuracy over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from yolov6_ignite.plots.chart import Entry, Panel, blank, finish, legend_row, nice_ticks
from yolov6_ignite.plots.palette import class_colour

__all__ = ["training_curves"]

_SIZE_PX = (1600, 640)
_TOP, _BOTTOM = 190, 1120
_WIDTH_PX = 5
_MARKED_EPOCHS = 40  # with more, the dots would run together
_ACCURACY = ("val/mAP@0.5", "val/mAP@0.50:0.95")


def training_curves(history: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Chart of a run: losses on the left, mAP on the right.

    Args:
        history: one row an epoch: ``epoch`` and the scalars by tag. Losses (``train/*_loss``) that are 0 in every row
            are left out, as are rows without accuracy from the right panel; values that are not finite break a curve.

    Returns:
        uint8 (640, 1600, 3), RGB.
    """
    canvas = blank(*_SIZE_PX)
    tags = dict.fromkeys(tag for row in history for tag in row if tag.startswith("train/") and tag.endswith("_loss"))
    losses = [tag for tag in tags if any(row.get(tag, 0.0) != 0 for row in history)]
    epochs = _x_range(history)
    _draw(canvas, history, losses, epochs, (180, 1540), "Training loss", "Loss", "no epoch finished yet", 0)
    evaluated = [row for row in history if any(tag in row for tag in _ACCURACY)]
    _draw(canvas, evaluated, _ACCURACY, epochs, (1780, 3140), "Validation accuracy", "mAP", "no evaluation yet", 3)
    return finish(canvas)


def _draw(
    canvas: np.ndarray,
    rows: Sequence[Mapping[str, float]],
    tags: Sequence[str],
    x_range: tuple[float, float],
    sides: tuple[int, int],
    title: str,
    y_label: str,
    empty: str,
    first_colour: int,
) -> None:
    epochs = np.array([row["epoch"] for row in rows], dtype=float)
    curves = {tag: np.array([row.get(tag, math.nan) for row in rows], dtype=float) for tag in tags}
    highest = max((float(value) for values in curves.values() for value in values[np.isfinite(values)]), default=0.0)
    top = highest * 1.05 if highest > 0 else 1.0
    panel = Panel(canvas, sides[0], _TOP, sides[1], _BOTTOM, x_range, (0.0, top))
    panel.title(title, rows_below=1)
    panel.axes("Epoch", y_label, nice_ticks(*x_range, 10, smallest_step=1.0), nice_ticks(0.0, top, 7))
    entries = []
    for i, (tag, values) in enumerate(curves.items()):
        colour = class_colour(first_colour + i)
        panel.curve(epochs, values, colour, _WIDTH_PX, markers=len(rows) <= _MARKED_EPOCHS)
        entries.append(Entry(tag.split("/", 1)[1], colour, _WIDTH_PX))
    if rows:
        legend_row(canvas, entries, sides[0], _TOP - 50)
    else:
        panel.note(empty)


def _x_range(rows: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    if not rows:
        return 0.0, 1.0
    first, last = min(row["epoch"] for row in rows), max(row["epoch"] for row in rows)
    margin = 0.02 * (last - first) or 0.5
    return first - margin, last + margin
