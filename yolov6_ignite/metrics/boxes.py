"""Box conversions between the model's output, the native image and COCO records."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cxcywh_to_xyxy", "rescale_to_native", "xyxy_to_coco"]


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corner form of boxes given by centre and size.

    Args:
        boxes: (..., 4) centre x, centre y, width, height.

    Returns:
        (..., 4) x1, y1, x2, y2 in the same unit.
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_coco(boxes: Tensor) -> Tensor:
    """COCO form of boxes given by corners (specification, training 13.4).

    The corner is computed from the centre, as the reference does: in fp32 the third decimal can depend on it.

    Args:
        boxes: (..., 4) x1, y1, x2, y2.

    Returns:
        (..., 4) left, top, width, height in the same unit.
    """
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    size = bottom_right - top_left
    return torch.cat(((top_left + bottom_right) / 2 - size / 2, size), dim=-1)


def rescale_to_native(boxes_xyxy: Tensor, letterbox_row: Tensor) -> Tensor:
    """Undo the letterbox of one image: from network pixels to pixels of the image as it is on disk.

    Specification, training 13.4: the padding is taken off, each axis is divided by its own gain, and the
    result is clamped to the image.

    Args:
        boxes_xyxy: (n, 4) x1, y1, x2, y2 in pixels of the network's input.
        letterbox_row: (6,) original height, original width, gain of height, gain of width, top, left; pixels.

    Returns:
        (n, 4) new tensor on the device of ``boxes_xyxy``.
    """
    height, width, gain_h, gain_w, top, left = letterbox_row.to(boxes_xyxy).unbind()
    offset = torch.stack((left, top, left, top))
    gain = torch.stack((gain_w, gain_h, gain_w, gain_h))
    limit = torch.stack((width, height, width, height))
    return ((boxes_xyxy - offset) / gain).clamp(min=torch.zeros_like(limit), max=limit)
