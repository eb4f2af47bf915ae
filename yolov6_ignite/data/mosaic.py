"""Mosaic: four images around a random centre, cropped by a random affine transform (specification, training 12.8).

A tile that the crop does not show is not even decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.affine import AffineDraw, affine_matrix, draw_affine, transform_boxes
from yolov6_ignite.data.boxes import clip_boxes, to_pixels
from yolov6_ignite.data.image import Image
from yolov6_ignite.data.source import ImageSource
from yolov6_ignite.data.warp import Rect, Tile, target_region, warp_tiles

__all__ = ["MosaicDraw", "draw_mosaic", "place_tiles", "render_mosaic"]


class MosaicDraw(NamedTuple):
    """One draw of a mosaic.

    Attributes:
        indices: images of the tiles top left, top right, bottom left, bottom right.
        centre_y: row of the canvas where tiles meet.
        centre_x: column.
        affine: canvas to target.
    """

    indices: tuple[int, ...]
    centre_y: int
    centre_x: int
    affine: AffineDraw


def draw_mosaic(
    rng: np.random.Generator, index: int, source: ImageSource, target: tuple[int, int], augment: AugmentConfig
) -> MosaicDraw:
    """Draw three images of the source besides ``index``, their order, the centre and the crop."""
    indices = rng.permutation([index, *source.draw(rng, 3)])
    centre_y, centre_x = (int(rng.uniform(side // 2, 3 * side // 2)) for side in target)
    return MosaicDraw(tuple(indices.tolist()), centre_y, centre_x, draw_affine(rng, augment))


def place_tiles(sizes: Sequence[tuple[int, int]], draw: MosaicDraw, target: tuple[int, int]) -> list[Tile]:
    """Put images of the given sizes (height, width) around the centre; each touches it with a corner."""
    canvas_h, canvas_w = 2 * target[0], 2 * target[1]
    tiles = []
    for position, (h, w) in enumerate(sizes):
        left = draw.centre_x - (w if position % 2 == 0 else 0)
        top = draw.centre_y - (h if position < 2 else 0)
        rect = Rect(max(left, 0), max(top, 0), min(left + w, canvas_w), min(top + h, canvas_h))
        tiles.append(Tile(rect, left, top))
    return tiles


def render_mosaic(source: ImageSource, draw: MosaicDraw, target: tuple[int, int]) -> tuple[Image, NDArray[np.float32]]:
    """Make the mosaic of a draw.

    Args:
        source: images at the size they are loaded at, and their labels.
        draw: from :func:`draw_mosaic`.
        target: (height, width).

    Returns:
        BGR uint8 (\\*target, 3), and float32 (n, 5) rows class, x1, y1, x2, y2 in pixels.
    """
    sizes = [source.size(i) for i in draw.indices]
    canvas = (2 * target[0], 2 * target[1])
    matrix = affine_matrix(draw.affine, canvas, target)
    tiles = []
    boxes = [np.zeros((0, 5), dtype=np.float32)]
    for i, (h, w), tile in zip(draw.indices, sizes, place_tiles(sizes, draw, target), strict=True):
        if target_region(tile.rect, matrix, target) is None:
            continue
        image = source.image(i)
        if image is None:
            continue
        tiles.append((image, tile))
        boxes.append(to_pixels(source.labels(i), w, h, tile.left, tile.top))
    rows = np.concatenate(boxes)
    clip_boxes(rows, canvas[1], canvas[0])
    return warp_tiles(tiles, matrix, canvas, target), transform_boxes(rows, matrix, draw.affine.scale, target)
