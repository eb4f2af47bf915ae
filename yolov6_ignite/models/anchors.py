"""Anchor points and the box code relative to them: what head and losses share (specification, models 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["anchor_points", "boxes_to_distances", "distances_to_boxes", "distribution_to_distances"]


def anchor_points(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Centres of all grid cells, level after level, row by row.

    Nothing is copied from the host, so the call does not wait for the device.

    Args:
        sizes: (height, width) of every level, in cells.
        strides: stride of every level, in pixels, in the same order.
        device: where to put the results.
        dtype: their type; float32 and wider are exact.

    Returns:
        Points (A, 2) as x, y **in pixels**, and the stride of each (A, 1) in pixels; points / stride are the
        same points in cells of their own level.
    """
    points, columns = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) * stride
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 2))
        columns.append(torch.full((height * width, 1), float(stride), device=device, dtype=dtype))
    return torch.cat(points), torch.cat(columns)


def distances_to_boxes(distances: Tensor, points: Tensor) -> Tensor:
    """Corners of the boxes whose sides lie at the given distances from their points.

    Args:
        distances: (..., 4) to the left, top, right and bottom side.
        points: (..., 2) as x, y, broadcast against `distances` and in the same unit.

    Returns:
        Boxes (..., 4) as x1, y1, x2, y2 in that unit.
    """
    left_top, right_bottom = distances.chunk(2, dim=-1)
    return torch.cat((points - left_top, points + right_bottom), dim=-1)


def boxes_to_distances(boxes: Tensor, points: Tensor, reg_max: int) -> Tensor:
    """Distances from points to the sides of boxes, in the range that `reg_max` bins can express.

    Args:
        boxes: (..., 4) as x1, y1, x2, y2 in cells.
        points: (..., 2) as x, y in cells.
        reg_max: the last bin of the distance distribution.

    Returns:
        (..., 4) left, top, right, bottom in cells, clipped to [0, reg_max - 0.01].
    """
    top_left, bottom_right = boxes.chunk(2, dim=-1)
    return torch.cat((points - top_left, bottom_right - points), dim=-1).clamp(0, reg_max - 0.01)


def distribution_to_distances(distribution: Tensor) -> Tensor:
    """Expected distances of the distributions that distribution focal loss trains.

    "Generalized Focal Loss" (https://arxiv.org/abs/2006.04388), equation 4.

    Args:
        distribution: (..., 4 x (reg_max + 1)) logits, side-major.

    Returns:
        (..., 4) left, top, right, bottom in cells, in `distribution`'s type.
    """
    probabilities = distribution.unflatten(-1, (4, -1)).softmax(dim=-1)
    bins = torch.arange(probabilities.shape[-1], device=distribution.device, dtype=probabilities.dtype)
    # Not a matrix product: autocast would round it to half precision.
    return (probabilities * bins).sum(dim=-1)
