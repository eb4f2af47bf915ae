"""Label files in YOLO format: one box a line, ``class cx cy w h``, normalised to the image's width and height.

The rules are those of the specification, training 12.5, applied to lines instead of whole images, and those it
lacks: class range, area, boxes that leave the image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Labels", "parse_labels"]


class Labels(NamedTuple):
    """What a label file holds.

    Attributes:
        rows: float32 (n, 5) class, centre x, centre y, width, height; normalised, inside the image.
        problems: (line number from 1, reason) of every line that is not in ``rows``; duplicates are not among them.
        duplicates: number of lines that repeat an earlier one.
    """

    rows: NDArray[np.float32]
    problems: list[tuple[int, str]]
    duplicates: int


def parse_labels(text: str, num_classes: int, height: int, width: int) -> Labels:
    """Read a label file's text.

    Args:
        text: content of the file.
        num_classes: classes are 0 to ``num_classes - 1``.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    rows: dict[tuple[float, ...], tuple[float, ...]] = {}  # by what is written, so that duplicates are exact
    problems = []
    duplicates = 0
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            written = _numbers(fields)
            box = _clip_below_a_pixel(_checked(written, num_classes), height, width)
        except _BadLineError as bad:
            problems.append((number, str(bad)))
            continue
        if written in rows:
            duplicates += 1
        else:
            rows[written] = (written[0], *box)
    return Labels(np.array(list(rows.values()), dtype=np.float32).reshape(-1, 5), problems, duplicates)


class _BadLineError(Exception):
    pass


def _numbers(fields: list[str]) -> tuple[float, ...]:
    if len(fields) != 5:
        hint = "; a polygon? convert it to its box" if len(fields) > 6 and len(fields) % 2 == 1 else ""
        raise _BadLineError(f"{len(fields)} fields, expected 5: class cx cy w h{hint}")
    numbers = []
    for field in fields:
        try:
            number = float(field)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise _BadLineError(f"{field[:20]!r} is not a number")
        numbers.append(number)
    return tuple(numbers)


def _checked(numbers: tuple[float, ...], num_classes: int) -> tuple[float, ...]:
    label, *box = numbers
    if label != int(label):
        raise _BadLineError(f"class {label:g} is not a whole number")
    if not 0 <= label < num_classes:
        raise _BadLineError(f"class {label:.0f} is not one of the {num_classes} classes 0 to {num_classes - 1}")
    for number in box:
        if not 0 <= number <= 1:
            raise _BadLineError(f"{number:g} is outside 0 to 1; boxes are relative to the image's width and height")
    if not (box[2] > 0 and box[3] > 0):
        raise _BadLineError("the box has no area")
    return tuple(box)


def _clip_below_a_pixel(box: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    """Clip edges that leave the image by less than a pixel, as rounding to six decimals makes them do."""
    clipped: dict[str, tuple[float, float]] = {}
    for axis, centre, extent, size in (("x", box[0], box[2], width), ("y", box[1], box[3], height)):
        low, high = centre - extent / 2, centre + extent / 2
        outside_px = max(-low, high - 1) * size
        if outside_px >= 1:
            raise _BadLineError(f"the box leaves the image by {outside_px:.0f} px; cut it at the image's edge")
        if outside_px > 0:
            low, high = max(low, 0.0), min(high, 1.0)
            if (high - low) * size < 1e-3:
                raise _BadLineError("the box has no area inside the image")
            centre, extent = (low + high) / 2, high - low
        clipped[axis] = (centre, extent)
    (x, w), (y, h) = clipped["x"], clipped["y"]
    return x, y, w, h
