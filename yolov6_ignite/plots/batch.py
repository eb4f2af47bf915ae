"""A training batch as one image (specification, training 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

import cv2
import numpy as np
from torch import Tensor

from yolov6_ignite.plots.boxes import class_name, draw_labelled_boxes, draw_tag, tag_place
from yolov6_ignite.plots.text import Font, shorten

__all__ = ["draw_batch"]

_SMALLEST_CELL_PX = 400  # of a cell's longer side: smaller images are enlarged, or labels would hide them
_CROWD = 20  # boxes in a cell from which the font is the smallest that is legible
_NAME_BACKGROUND = (32, 32, 32)


def draw_batch(
    images: Tensor,
    targets: Tensor,
    paths: Sequence[str],
    names: Sequence[str],
    *,
    max_images: int = 16,
    max_side_px: int = 1920,
) -> np.ndarray:
    """The images of a batch in a square grid, filled column by column, with their labels and file names.

    Args:
        images: uint8 (b, 3, h, w), RGB.
        targets: (n, 6) image in the batch, class, cx, cy, w, h; normalised.
        paths: b image files.
        names: of the classes.
        max_images: how many of the batch are shown.
        max_side_px: the result's longest side, at most.

    Returns:
        uint8 (h, w, 3), RGB, a new array.
    """
    shown = images[:max_images].detach().permute(0, 2, 3, 1).cpu().numpy()
    rows = targets.detach().float().cpu().numpy()
    count, height, width = shown.shape[:3]
    cells = math.ceil(math.sqrt(count))
    longest = max(height, width)
    scale = min(max_side_px / cells / longest, max(1.0, _SMALLEST_CELL_PX / longest))
    cell_h, cell_w = max(1, int(height * scale)), max(1, int(width * scale))
    canvas = np.full((cells * cell_h, cells * cell_w, 3), 255, dtype=np.uint8)
    for i in range(count):
        cell = _draw_cell(shown[i], (cell_w, cell_h), rows[rows[:, 0] == i], PurePath(paths[i]).name, names)
        x, y = i // cells * cell_w, i % cells * cell_h
        canvas[y : y + cell_h, x : x + cell_w] = cell
    return canvas


def _draw_cell(
    image: np.ndarray, size: tuple[int, int], rows: np.ndarray, file_name: str, names: Sequence[str]
) -> np.ndarray:
    width, height = size
    interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    cell = cv2.resize(np.array(image, order="C"), size, interpolation=interpolation)
    font = Font(0.42)
    text = font.fit(shorten(file_name, 40), width - 16)
    name_place = tag_place(text, 4, 4, font)
    half = rows[:, 4:6] / 2
    boxes = np.concatenate((rows[:, 2:4] - half, rows[:, 2:4] + half), axis=1) * [width, height, width, height]
    kinds = rows[:, 1].astype(int)
    draw_labelled_boxes(
        cell,
        boxes,
        kinds,
        [class_name(names, int(kind)) for kind in kinds],
        font=Font(0.35) if len(rows) > _CROWD else font,
        line_width_px=1 if len(rows) > _CROWD else 2,
        taken=[name_place],
    )
    draw_tag(cell, text, name_place, font, _NAME_BACKGROUND)
    cv2.rectangle(cell, (0, 0), (width - 1, height - 1), (255, 255, 255), 2)
    return cell
