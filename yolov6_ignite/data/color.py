"""Colour augmentation: random gains in HSV (specification, training 12.8), and blending two images."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.image import Image

__all__ = ["apply_hsv_gains", "blend", "draw_hsv_gains"]


def draw_hsv_gains(rng: np.random.Generator, augment: AugmentConfig) -> NDArray[np.float64] | None:
    """Factors of hue, saturation and value, or None where the configuration leaves colours alone."""
    ranges = np.array([augment.hsv_h, augment.hsv_s, augment.hsv_v])
    return rng.uniform(-1, 1, 3) * ranges + 1 if ranges.any() else None


def apply_hsv_gains(image: Image, gains: NDArray[np.float64]) -> Image:
    """Multiply hue (modulo 180), saturation and value of a BGR image by ``gains``.

    Returns:
        The image as **RGB**: the way back from HSV reorders channels for nothing.
    """
    levels = np.arange(256)
    tables = np.stack([levels * gains[0] % 180, *(np.clip(levels * gain, 0, 255) for gain in gains[1:])], axis=-1)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv = cv2.LUT(hsv, tables.astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)  # type: ignore[return-value]


def blend(first: Image, second: Image, share: float) -> Image:
    """``share`` of the first image and the rest of the second, truncated to whole numbers (mixup, Zhang 2018)."""
    # The sum is rounded to nearest; half a level less truncates, and the margin keeps equal levels as they are.
    return cv2.addWeighted(first, share, second, 1 - share, -0.499)  # type: ignore[return-value]
