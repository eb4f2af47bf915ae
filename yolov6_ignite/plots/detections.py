"""Detections on an image (specification, training 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from yolov6_ignite.plots.boxes import class_name, draw_labelled_boxes
from yolov6_ignite.plots.text import Font

__all__ = ["draw_detections", "top_detections"]

_SMALLEST_SIDE_PX = 400  # of the longer side: below, labels would hide the image


def top_detections(detections: Tensor, min_score: float = 0.3, max_boxes: int = 6) -> Tensor:
    """The detections that are worth showing.

    Args:
        detections: (n, 6) x1, y1, x2, y2, score, class; best score first.
        min_score: lowest score, inclusive.
        max_boxes: how many at most.

    Returns:
        (k, 6) the first rows, k <= ``max_boxes``.
    """
    best = detections[:max_boxes]
    return best[best[:, 4] >= min_score]


def draw_detections(
    image_rgb: np.ndarray,
    boxes_xyxy: np.ndarray | Tensor,
    scores: np.ndarray | Tensor,
    classes: np.ndarray | Tensor,
    names: Sequence[str],
) -> np.ndarray:
    """A copy of an image with boxes, class names and scores.

    An image whose longer side is below 400 px is enlarged by the whole factor that brings it there, so that labels
    are legible.

    Args:
        image_rgb: uint8 (h, w, 3), RGB.
        boxes_xyxy: (n, 4) in pixels of the image.
        scores: (n,) in 0..1.
        classes: (n,) class indices.
        names: of the classes.

    Returns:
        uint8 (h * factor, w * factor, 3), RGB.
    """
    factor = math.ceil(_SMALLEST_SIDE_PX / max(image_rgb.shape[:2]))
    if factor > 1:
        canvas = cv2.resize(image_rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    else:
        canvas = np.array(image_rgb, order="C")
    kinds = _array(classes).astype(int)
    labels = [f"{class_name(names, int(kind))} {score:.2f}" for kind, score in zip(kinds, _array(scores), strict=True)]
    line_width_px = max(round(sum(canvas.shape) / 2 * 0.003), 2)
    draw_labelled_boxes(
        canvas,
        _array(boxes_xyxy).reshape(-1, 4) * factor,
        kinds,
        labels,
        font=Font(max(0.45, 0.25 * line_width_px), max(1, line_width_px // 2)),
        line_width_px=line_width_px,
    )
    return canvas


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
