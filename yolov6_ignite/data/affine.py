"""Random affine transforms of images and boxes (specification, training 12.8)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import AugmentConfig

__all__ = ["AffineDraw", "affine_matrix", "draw_affine", "transform_boxes"]

Matrix = NDArray[np.float64]

MIN_SIDE_PX = 2
MIN_AREA_RATIO = 0.1
MAX_ASPECT = 20


class AffineDraw(NamedTuple):
    """One draw of the transform.

    Attributes:
        angle: counter-clockwise, in degrees.
        scale: factor.
        shear_x: in degrees.
        shear_y: in degrees.
        shift_x: where the source's centre goes, as a fraction of the target's width.
        shift_y: likewise of its height.
    """

    angle: float
    scale: float
    shear_x: float
    shear_y: float
    shift_x: float
    shift_y: float


def draw_affine(rng: np.random.Generator, augment: AugmentConfig) -> AffineDraw:
    """Draw a transform from the configured ranges, uniformly."""
    low = [-augment.degrees, 1 - augment.scale, -augment.shear, -augment.shear] + [0.5 - augment.translate] * 2
    high = [augment.degrees, 1 + augment.scale, augment.shear, augment.shear] + [0.5 + augment.translate] * 2
    return AffineDraw(*rng.uniform(low, high).tolist())


def affine_matrix(draw: AffineDraw, source: tuple[int, int], target: tuple[int, int]) -> Matrix:
    """Matrix (3, 3) that takes source pixels to target pixels.

    The source's centre goes to the origin, is rotated and scaled, sheared, and goes to its place in the target.

    Args:
        draw: the transform.
        source: (height, width) in pixels.
        target: (height, width) in pixels.
    """
    angle = math.radians(draw.angle)
    a, b = draw.scale * math.cos(angle), draw.scale * math.sin(angle)
    shear_x, shear_y = math.tan(math.radians(draw.shear_x)), math.tan(math.radians(draw.shear_y))
    centre = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
    rotate = np.array([[a, b, 0], [-b, a, 0], [0, 0, 1]])
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    place = np.array([[1, 0, draw.shift_x * target[1]], [0, 1, draw.shift_y * target[0]], [0, 0, 1]])
    return place @ shear @ rotate @ centre


def transform_boxes(
    boxes: NDArray[np.float32], matrix: Matrix, scale: float, target: tuple[int, int]
) -> NDArray[np.float32]:
    """Transform boxes, clip them to the target and drop what is left of too small or too thin ones.

    A box becomes the box around its transformed corners. It is kept if both sides are longer than 2 px, its area is
    more than a tenth of what the scale alone would make it, and its sides' ratio is below 20.

    Args:
        boxes: (n, 5) class, x1, y1, x2, y2 in source pixels.
        matrix: from :func:`affine_matrix`.
        scale: the draw's scale.
        target: (height, width) in pixels.

    Returns:
        (m, 5) in target pixels.
    """
    corners = np.ones((len(boxes), 4, 3))
    corners[:, :, :2] = boxes[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 4, 2)
    moved = corners @ matrix[:2].T
    new = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    new[:, 0::2] = new[:, 0::2].clip(0, target[1])
    new[:, 1::2] = new[:, 1::2].clip(0, target[0])
    keep = _kept((boxes[:, 1:] * scale).astype(np.float64), new)
    out = np.empty((int(keep.sum()), 5), dtype=np.float32)
    out[:, 0] = boxes[keep, 0]
    out[:, 1:] = new[keep]
    return out


def _kept(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    eps = 1e-16
    area_before = (before[:, 2] - before[:, 0]) * (before[:, 3] - before[:, 1])
    w, h = after[:, 2] - after[:, 0], after[:, 3] - after[:, 1]
    aspect = np.maximum(w / (h + eps), h / (w + eps))
    return (
        (w > MIN_SIDE_PX) & (h > MIN_SIDE_PX) & (w * h / (area_before + eps) > MIN_AREA_RATIO) & (aspect < MAX_ASPECT)
    )
