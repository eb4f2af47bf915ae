"""The augmentation of one training sample, from images to a tensor's pixels (specification, training 12.7)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.affine import affine_matrix, draw_affine, transform_boxes
from yolov6_ignite.data.boxes import to_normalised, to_pixels
from yolov6_ignite.data.color import apply_hsv_gains, blend, draw_hsv_gains
from yolov6_ignite.data.image import Image
from yolov6_ignite.data.letterbox import PAD_VALUE, letterbox_geometry
from yolov6_ignite.data.mosaic import draw_mosaic, render_mosaic
from yolov6_ignite.data.source import ImageSource
from yolov6_ignite.data.warp import Rect, Tile, warp_tiles

__all__ = ["MIXUP_BETA", "augmented_sample", "single_image", "to_planes"]

MIXUP_BETA = 32

Rows = NDArray[np.float32]


def augmented_sample(
    source: ImageSource,
    index: int,
    rng: np.random.Generator,
    target: tuple[int, int],
    augment: AugmentConfig,
    *,
    strong: bool,
) -> tuple[Image, Rows]:
    """Make a training sample.

    Args:
        source: images and labels.
        index: of the sample's own image.
        rng: the sample's generator.
        target: (height, width).
        augment: ranges and probabilities.
        strong: mosaic and mixup, by their probabilities; False after the augmentation cutoff.

    Returns:
        RGB uint8 (3, \\*target), contiguous, and float32 (n, 5) normalised rows class, cx, cy, w, h.
    """
    if strong and rng.random() < augment.mosaic:
        image, boxes = render_mosaic(source, draw_mosaic(rng, index, source, target, augment), target)
        if rng.random() < augment.mixup:
            other = draw_mosaic(rng, source.draw(rng, 1)[0], source, target, augment)
            other_image, other_boxes = render_mosaic(source, other, target)
            image = blend(image, other_image, float(rng.beta(MIXUP_BETA, MIXUP_BETA)))
            boxes = np.concatenate([boxes, other_boxes])
    else:
        image, boxes = single_image(source, index, rng, target, augment)
    rows = to_normalised(boxes, target[1], target[0])

    gains = draw_hsv_gains(rng, augment)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if gains is None else apply_hsv_gains(image, gains)  # type: ignore[assignment]
    if rng.random() < augment.flipud:
        image = cv2.flip(image, 0)  # type: ignore[assignment]
        rows[:, 2] = 1 - rows[:, 2]
    if rng.random() < augment.fliplr:
        image = cv2.flip(image, 1)  # type: ignore[assignment]
        rows[:, 1] = 1 - rows[:, 1]
    return to_planes(image), rows


def single_image(
    source: ImageSource, index: int, rng: np.random.Generator, target: tuple[int, int], augment: AugmentConfig
) -> tuple[Image, Rows]:
    """One image, letterboxed and transformed; BGR and pixel rows."""
    draw = draw_affine(rng, augment)
    matrix = affine_matrix(draw, target, target)
    image = source.image(index)
    if image is None:
        return np.full((*target, 3), PAD_VALUE, dtype=np.uint8), np.zeros((0, 5), dtype=np.float32)
    h, w = image.shape[:2]
    place = letterbox_geometry(h, w, target)
    if (place.height, place.width) != (h, w):
        image = cv2.resize(image, (place.width, place.height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    rect = Rect(place.left, place.top, place.left + place.width, place.top + place.height)
    out = warp_tiles([(image, Tile(rect, place.left, place.top))], matrix, target, target)
    boxes = to_pixels(source.labels(index), place.ratio * w, place.ratio * h, place.left, place.top)
    return out, transform_boxes(boxes, matrix, draw.scale, target)


def to_planes(image: Image) -> Image:
    """(height, width, 3) to contiguous (3, height, width)."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, [planes[0], planes[1], planes[2]])
    return planes
