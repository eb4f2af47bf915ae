"""Drawing the images of a canvas where an affine transform takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.data.image import Image
from yolov6_ignite.data.letterbox import PAD_VALUE

__all__ = ["Rect", "Tile", "target_region", "warp_tiles"]


class Rect(NamedTuple):
    """Whole pixels from (x1, y1) up to, without, (x2, y2)."""

    x1: int
    y1: int
    x2: int
    y2: int


class Tile(NamedTuple):
    """An image in a canvas.

    Attributes:
        rect: where it is seen; inside the canvas.
        left: column of the canvas where the image's first column lies; what lies outside ``rect`` is cut.
        top: likewise its first row.
    """

    rect: Rect
    left: int
    top: int


def target_region(rect: Rect, matrix: NDArray[np.float64], target: tuple[int, int]) -> Rect | None:
    """Pixels of the target that a rectangle of the canvas may cover; None if there are none.

    Args:
        rect: the rectangle; its pixels are centred on whole coordinates.
        matrix: (3, 3), canvas to target.
        target: (height, width).
    """
    x = np.array([rect.x1, rect.x2, rect.x1, rect.x2]) - 0.5
    y = np.array([rect.y1, rect.y1, rect.y2, rect.y2]) - 0.5
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    region = Rect(
        max(math.ceil(u.min()), 0),
        max(math.ceil(v.min()), 0),
        min(math.ceil(u.max()), target[1]),
        min(math.ceil(v.max()), target[0]),
    )
    return region if region.x1 < region.x2 and region.y1 < region.y2 else None


def warp_tiles(
    tiles: Sequence[tuple[Image, Tile]], matrix: NDArray[np.float64], canvas: tuple[int, int], target: tuple[int, int]
) -> Image:
    """Draw a grey canvas with some images in it as an affine transform shows it (linear interpolation).

    Without rotation and shear the canvas is never made: its tiles are rectangles in the target too, and are warped
    straight into it. The pixels are the same but for those along a tile's edges, which are then not mixed with what
    lies beside the tile.

    Args:
        tiles: images uint8 (h, w, 3), and where they lie; they do not overlap.
        matrix: (3, 3), canvas to target.
        canvas: (height, width).
        target: (height, width).

    Returns:
        uint8 (\\*target, 3).
    """
    if matrix[0, 1] == 0 and matrix[1, 0] == 0:
        out = np.full((*target, 3), PAD_VALUE, dtype=np.uint8)
        for image, tile in tiles:
            _warp_straight(out, image, tile, matrix)
        return out
    drawn = np.full((*canvas, 3), PAD_VALUE, dtype=np.uint8)
    for image, (rect, left, top) in tiles:
        seen = image[rect.y1 - top : rect.y2 - top, rect.x1 - left : rect.x2 - left]
        drawn[rect.y1 : rect.y2, rect.x1 : rect.x2] = seen
    return cv2.warpAffine(drawn, matrix[:2], target[::-1], flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3)  # type: ignore[return-value]


def _warp_straight(out: Image, image: Image, tile: Tile, matrix: NDArray[np.float64]) -> None:
    """Warp a tile into its part of the target; tiles with a common edge share no pixel and leave no gap."""
    region = target_region(tile.rect, matrix, (out.shape[0], out.shape[1]))
    if region is None:
        return
    to_region = matrix[:2].copy()
    to_region[:, 2] += matrix[:2, :2] @ (tile.left, tile.top) - (region.x1, region.y1)
    part = out[region.y1 : region.y2, region.x1 : region.x2]
    cv2.warpAffine(
        image, to_region, part.shape[1::-1], dst=part, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
