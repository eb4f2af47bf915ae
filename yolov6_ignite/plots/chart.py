"""Line charts on a pixel canvas: panel, axes, curves and legends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolov6_ignite.plots.palette import RGB
from yolov6_ignite.plots.text import Font

__all__ = ["Entry", "Panel", "blank", "finish", "legend_column", "legend_row", "nice_ticks"]

SUPERSAMPLING = 2  # charts are drawn this much larger: after the reduction, text and lines are smooth
_TITLE_FONT, _FONT, _TICK_FONT = Font(1.2, 3), Font(1.0, 2), Font(0.9, 2)
_INK, _AXIS, _GRID = (40, 40, 40), (110, 110, 110), (228, 228, 228)
_TICK_PX, _GAP_PX, _SWATCH_PX = 10, 14, 56
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def blank(width_px: int, height_px: int) -> np.ndarray:
    """White canvas that :func:`finish` reduces to ``width_px`` x ``height_px``."""
    return np.full((height_px * SUPERSAMPLING, width_px * SUPERSAMPLING, 3), 255, dtype=np.uint8)


def finish(canvas: np.ndarray) -> np.ndarray:
    """The chart at its final size."""
    height, width = canvas.shape[:2]
    return cv2.resize(canvas, (width // SUPERSAMPLING, height // SUPERSAMPLING), interpolation=cv2.INTER_AREA)


def nice_ticks(low: float, high: float, count: int, *, smallest_step: float = 0.0) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in low..high, about ``count`` of them.

    Args:
        low: beginning of the axis.
        high: end of the axis, > ``low``.
        count: how many are wanted, >= 1.
        smallest_step: lower bound of the step; 1 gives whole numbers.

    Returns:
        Ascending values.
    """
    raw = max((high - low) / count, smallest_step)
    power = 10.0 ** math.floor(math.log10(raw) + 1e-9)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class Entry:
    """A line of a legend."""

    text: str
    colour: RGB
    width_px: int


@dataclass(frozen=True)
class Panel:
    """Axes: a rectangle of a canvas and the ranges that it shows.

    Args:
        canvas: from :func:`blank`, written to.
        left: of the rectangle, in canvas pixels, as the next three.
        top: likewise.
        right: likewise.
        bottom: likewise.
        x_range: first and last x.
        y_range: lowest and highest y.
    """

    canvas: np.ndarray
    left: int
    top: int
    right: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def to_pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, 2) canvas coordinates of points."""
        (x_low, x_high), (y_low, y_high) = self.x_range, self.y_range
        columns = self.left + (x - x_low) / (x_high - x_low) * (self.right - self.left)
        lines = self.bottom - (y - y_low) / (y_high - y_low) * (self.bottom - self.top)
        return np.stack((columns, lines), axis=1)

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        """Draws grid, frame, ticks with their numbers, and the names of the axes."""
        ends_x, ends_y = np.array(self.x_range), np.array(self.y_range)
        columns = self.to_pixels(np.array(x_ticks), np.full(len(x_ticks), ends_y[0]))[:, 0]
        lines = self.to_pixels(np.full(len(y_ticks), ends_x[0]), np.array(y_ticks))[:, 1]
        below, beside = self.bottom + _TICK_PX + _GAP_PX, self.left - _TICK_PX - _GAP_PX
        widest = 0
        for column, text in zip(np.rint(columns).astype(int).tolist(), _numbers(x_ticks), strict=True):
            cv2.line(self.canvas, (column, self.top), (column, self.bottom), _GRID, 2)
            cv2.line(self.canvas, (column, self.bottom), (column, self.bottom + _TICK_PX), _AXIS, 2)
            width, height, _ = _TICK_FONT.size(text)
            _TICK_FONT.draw(self.canvas, text, column - width // 2, below + height, _INK)
        for line, text in zip(np.rint(lines).astype(int).tolist(), _numbers(y_ticks), strict=True):
            cv2.line(self.canvas, (self.left, line), (self.right, line), _GRID, 2)
            cv2.line(self.canvas, (self.left - _TICK_PX, line), (self.left, line), _AXIS, 2)
            width, height, _ = _TICK_FONT.size(text)
            _TICK_FONT.draw(self.canvas, text, beside - width, line + height // 2, _INK)
            widest = max(widest, width)
        cv2.rectangle(self.canvas, (self.left, self.top), (self.right, self.bottom), _AXIS, 2)
        width, height, _ = _FONT.size(x_label)
        tick_height = _TICK_FONT.size("0")[1]
        middle = (self.left + self.right - width) // 2
        _FONT.draw(self.canvas, x_label, middle, below + tick_height + 2 * _GAP_PX + height, _INK)
        self._draw_upwards(y_label, beside - widest - 2 * _GAP_PX)

    def curve(self, x: np.ndarray, y: np.ndarray, colour: RGB, width_px: int, *, markers: bool = False) -> None:
        """Draws a line through points, broken where y is not finite; ``markers`` puts a dot on each point."""
        finite = np.isfinite(y)
        points = np.rint(self.to_pixels(x, np.where(finite, y, 0.0)) * (1 << _SHIFT)).astype(np.int32)
        for run in np.split(np.arange(len(y)), np.flatnonzero(np.diff(finite)) + 1):
            if len(run) and finite[run[0]]:
                cv2.polylines(self.canvas, [points[run]], False, colour, width_px, cv2.LINE_AA, _SHIFT)
                for point in points[run] if markers or len(run) == 1 else ():
                    centre = (int(point[0]), int(point[1]))
                    cv2.circle(self.canvas, centre, 2 * width_px << _SHIFT, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def title(self, text: str, rows_below: int = 0) -> None:
        """Writes a title above the rectangle, leaving room for rows of a legend."""
        text = _TITLE_FONT.fit(text, self.right - self.left)
        y = self.top - 2 * _GAP_PX - rows_below * legend_pitch()
        _TITLE_FONT.draw(self.canvas, text, self.left, y, _INK)

    def note(self, text: str) -> None:
        """Writes text into the middle of the rectangle."""
        width, height, _ = _FONT.size(text)
        _FONT.draw(
            self.canvas, text, (self.left + self.right - width) // 2, (self.top + self.bottom + height) // 2, _AXIS
        )

    def _draw_upwards(self, text: str, right: int) -> None:
        width, height, depth = _FONT.size(text)
        patch = np.full((height + depth + 4, width, 3), 255, dtype=np.uint8)
        _FONT.draw(patch, text, 0, height + 2, _INK)
        turned = np.rot90(patch)
        top, left = (self.top + self.bottom - turned.shape[0]) // 2, right - turned.shape[1]
        self.canvas[top : top + turned.shape[0], left : left + turned.shape[1]] = turned


def legend_pitch() -> int:
    """Distance of two rows of a legend, in canvas pixels."""
    _, height, depth = _FONT.size("Ag")
    return height + depth + _GAP_PX


def legend_column(canvas: np.ndarray, entries: Sequence[Entry], x: int, y: int, width_px: int) -> None:
    """Draws entries below each other; (x, y) is the top left corner; longer texts are shortened to ``width_px``."""
    for i, entry in enumerate(entries):
        text = _FONT.fit(entry.text, width_px - _SWATCH_PX - _GAP_PX)
        _draw_entry(canvas, Entry(text, entry.colour, entry.width_px), x, y + i * legend_pitch())


def legend_row(canvas: np.ndarray, entries: Sequence[Entry], x: int, y: int) -> None:
    """Draws entries beside each other; (x, y) is the top left corner."""
    for entry in entries:
        _draw_entry(canvas, entry, x, y)
        x += _SWATCH_PX + _FONT.size(entry.text)[0] + 4 * _GAP_PX


def _draw_entry(canvas: np.ndarray, entry: Entry, x: int, y: int) -> None:
    height = _FONT.size("A")[1]
    middle = y + height // 2
    cv2.line(canvas, (x, middle), (x + _SWATCH_PX, middle), entry.colour, entry.width_px, cv2.LINE_AA)
    _FONT.draw(canvas, entry.text, x + _SWATCH_PX + _GAP_PX, y + height, _INK)


def _numbers(ticks: Sequence[float]) -> list[str]:
    """The ticks' texts, all with as many decimals as the step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:.{decimals}f}" for tick in ticks]
