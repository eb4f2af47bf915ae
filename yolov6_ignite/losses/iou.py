"""Losses on pairs of boxes: GIoU, DIoU, CIoU, SIoU (specification, training 11.4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["IoUKind", "iou_loss"]

IoUKind = Literal["giou", "diou", "ciou", "siou"]

EPS = 1e-10


def iou_loss(predicted: Tensor, target: Tensor, kind: IoUKind) -> Tensor:
    """Loss of each pair of boxes, 0 where they are equal.

    GIoU: arXiv:1902.09630; DIoU and CIoU: arXiv:1911.08287; SIoU: arXiv:2205.12740.

    Args:
        predicted: (..., 4) boxes as x1, y1, x2, y2.
        target: (..., 4) boxes in the same unit.
        kind: which loss.

    Returns:
        (...) losses, not reduced.
    """
    # Both axes go through each operation together: (..., 2) is x, y or width, height.
    low, high = predicted.chunk(2, dim=-1)
    target_low, target_high = target.chunk(2, dim=-1)
    height_only = torch.arange(2, device=predicted.device, dtype=predicted.dtype) * EPS
    size, target_size = high - low + height_only, target_high - target_low + height_only
    intersection = _area((torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0))
    union = _area(size) + _area(target_size) - intersection + EPS
    iou = intersection / union
    hull = torch.maximum(high, target_high) - torch.minimum(low, target_low)  # the smallest box around both
    if kind == "giou":
        hull_area = _area(hull) + EPS
        return 1 - iou + (hull_area - union) / hull_area

    offset = (target_low + target_high - low - high) / 2
    if kind == "siou":
        return 1 - iou + _siou_penalty(offset + EPS, hull, size, target_size)
    penalty = offset.square().sum(-1) / (hull.square().sum(-1) + EPS)
    if kind == "ciou":
        aspect = 4 / math.pi**2 * (_angle(target_size) - _angle(size)).square()
        # Summed in this order, or fp32 loses the small number and equal boxes give 0 / 0.
        weight = (aspect / (aspect + (1 - iou).clamp(min=0) + EPS)).detach()
        penalty = penalty + aspect * weight
    return 1 - iou + penalty


def _area(size: Tensor) -> Tensor:
    width, height = size.unbind(-1)
    return width * height


def _angle(size: Tensor) -> Tensor:
    width, height = size.unbind(-1)
    return torch.atan(width / height)


def _siou_penalty(offset: Tensor, hull: Tensor, size: Tensor, target_size: Tensor) -> Tensor:
    """Half of distance cost, weighted by the direction from centre to centre, plus shape cost."""
    # With s the sine of the direction: cos(2 asin(s) - pi/2) = 2 s sqrt(1 - s^2), the same for both of its legs.
    direction = 2 * _area(offset).abs() / offset.square().sum(-1)
    gamma = (direction - 2).unsqueeze(-1)
    distance = 1 - torch.exp(gamma * (offset / hull).square())
    shape = torch.expm1(-(size - target_size).abs() / torch.maximum(size, target_size)).pow(4)
    return 0.5 * (distance + shape).sum(-1)
