"""Overlap of boxes and anchor points with ground-truth boxes, for any shapes that broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Corners", "box_iou", "contains", "corners", "pair_corners"]

Corners = tuple[Tensor, Tensor, Tensor, Tensor]

IOU_EPS = 1e-9


def corners(boxes: Tensor) -> Corners:
    """Splits boxes (..., 4) into x1, y1, x2, y2, each (...)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x1, y1, x2, y2


def pair_corners(boxes: Tensor) -> Corners:
    """Corners of boxes (batch, A, 4) as (batch, 1, A) each, contiguous: ready to meet (batch, M, 1)."""
    x1, y1, x2, y2 = boxes.permute(2, 0, 1).unsqueeze(2).contiguous().unbind(0)
    return x1, y1, x2, y2


def box_iou(first: Corners, second: Corners) -> Tensor:
    """Intersection over union, sides clipped at 0 and 1e-9 added to the union (specification, training 10.2).

    Args:
        first: x1, y1, x2, y2 of the one set of boxes.
        second: those of the other, in the same unit; the shapes broadcast.

    Returns:
        IoU of the broadcast shape. Made with in-place operations: not differentiable.
    """
    ax1, ay1, ax2, ay2 = first
    bx1, by1, bx2, by2 = second
    intersection = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    intersection.mul_(torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0))
    first_area = (ax2 - ax1).clamp_(min=0) * (ay2 - ay1).clamp_(min=0)
    second_area = (bx2 - bx1).clamp_(min=0) * (by2 - by1).clamp_(min=0)
    union = (first_area + second_area).sub_(intersection).add_(IOU_EPS)
    return intersection.div_(union)


def contains(boxes: Corners, x: Tensor, y: Tensor) -> Tensor:
    """Whether points lie strictly inside boxes, as a bool tensor of the broadcast shape."""
    x1, y1, x2, y2 = boxes
    return (x > x1).logical_and_(x < x2).logical_and_(y > y1).logical_and_(y < y2)
