"""Boxes of one image as arrays: rows of labels to pixels and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["clip_boxes", "to_normalised", "to_pixels"]

Array = NDArray[np.float32]


def to_pixels(rows: Array, width: float, height: float, left: float, top: float) -> Array:
    """Normalised rows (class, cx, cy, w, h) to pixel rows (class, x1, y1, x2, y2).

    Args:
        rows: (n, 5).
        width: of the image as it is shown, in pixels.
        height: likewise.
        left: where its left edge lies, in pixels.
        top: likewise.
    """
    out = np.empty_like(rows)
    out[:, 0] = rows[:, 0]
    half_w, half_h = rows[:, 3] / 2, rows[:, 4] / 2
    out[:, 1] = width * (rows[:, 1] - half_w) + left
    out[:, 2] = height * (rows[:, 2] - half_h) + top
    out[:, 3] = width * (rows[:, 1] + half_w) + left
    out[:, 4] = height * (rows[:, 2] + half_h) + top
    return out


def clip_boxes(boxes: Array, width: float, height: float) -> None:
    """Clip pixel rows (class, x1, y1, x2, y2) to an image, in place."""
    np.clip(boxes[:, 1::2], 0, width, out=boxes[:, 1::2])
    np.clip(boxes[:, 2::2], 0, height, out=boxes[:, 2::2])


def to_normalised(boxes: Array, width: int, height: int) -> Array:
    """Pixel rows to normalised rows, clipped just inside the image (specification, training 12.7, step 3)."""
    clipped = boxes.copy()
    clip_boxes(clipped, width - 1e-3, height - 1e-3)
    out = np.empty_like(clipped)
    out[:, 0] = clipped[:, 0]
    out[:, 1] = (clipped[:, 1] + clipped[:, 3]) / 2 / width
    out[:, 2] = (clipped[:, 2] + clipped[:, 4]) / 2 / height
    out[:, 3] = (clipped[:, 3] - clipped[:, 1]) / width
    out[:, 4] = (clipped[:, 4] - clipped[:, 2]) / height
    return out
