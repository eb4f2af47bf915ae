"""Letterbox: an image resized into a rectangle and centred on grey (specification, training 12.7)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from yolov6_ignite.data.image import Image

__all__ = ["PAD_VALUE", "Letterbox", "letterbox", "letterbox_geometry"]

PAD_VALUE = 114


class Letterbox(NamedTuple):
    """Where an image lies in its letterbox.

    Attributes:
        ratio: size in the letterbox over size before.
        height: of the image inside, in pixels.
        width: likewise.
        top: first row of the image inside.
        left: first column.
    """

    ratio: float
    height: int
    width: int
    top: int
    left: int


def letterbox_geometry(height: int, width: int, target: tuple[int, int], *, scale_up: bool = True) -> Letterbox:
    """Where an image of a size lies in the letterbox ``target`` (height, width).

    Args:
        height: of the image, in pixels.
        width: likewise.
        target: (height, width) of the letterbox.
        scale_up: enlarge images that are smaller.
    """
    ratio = min(target[0] / height, target[1] / width)
    if not scale_up:
        ratio = min(ratio, 1.0)
    # The other side of a very thin image rounds to nothing, and both must fit.
    new_h = min(max(round(height * ratio), 1), target[0])
    new_w = min(max(round(width * ratio), 1), target[1])
    top, left = round((target[0] - new_h) / 2 - 0.1), round((target[1] - new_w) / 2 - 0.1)
    return Letterbox(ratio, new_h, new_w, top, left)


def letterbox(image: Image, place: Letterbox, target: tuple[int, int]) -> Image:
    """Draw the letterbox.

    Args:
        image: uint8 (height, width, 3).
        place: from :func:`letterbox_geometry`.
        target: (height, width).

    Returns:
        uint8 (\\*target, 3), contiguous.
    """
    out = np.full((*target, 3), PAD_VALUE, dtype=np.uint8)
    inside = out[place.top : place.top + place.height, place.left : place.left + place.width]
    if image.shape[:2] == inside.shape[:2]:
        inside[:] = image
    else:
        cv2.resize(image, (place.width, place.height), dst=inside, interpolation=cv2.INTER_LINEAR)
    return out
