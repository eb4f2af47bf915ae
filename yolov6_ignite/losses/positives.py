"""The positive anchors of a batch as short lists of a length that the host knows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yolov6_ignite.assigners import Assignment, GroundTruth

__all__ = ["Positives", "gather_anchors", "gather_positives"]


class Positives(NamedTuple):
    """Slots for positive anchors, P an image; those that an image does not need are not valid.

    Attributes:
        anchor_index: (batch, P) int64, 0 where not valid.
        valid: (batch, P) bool.
        labels: (batch, P) int64 class of the assigned object.
        scores: (batch, P) target class score, 0 where not valid.
        points: (batch, P, 2) anchor point in strides.
        boxes: (batch, P, 4) box of the assigned object, x1, y1, x2, y2 in strides of the anchor.
    """

    anchor_index: Tensor
    valid: Tensor
    labels: Tensor
    scores: Tensor
    points: Tensor
    boxes: Tensor


def gather_positives(assignment: Assignment, ground_truth: GroundTruth, points: Tensor, stride: Tensor) -> Positives:
    """Lists the positive anchors in order, with what they are to learn, without asking the device how many they are.

    Args:
        assignment: which anchor learns which object.
        ground_truth: the objects.
        points: (A, 2) anchor points in pixels.
        stride: (A, 1) stride of each anchor in pixels.
    """
    positive = assignment.positive
    batch, anchors = positive.shape
    capacity = assignment.capacity
    slot = torch.where(positive, positive.cumsum(1) - 1, capacity)  # the background goes to an extra slot
    anchor = torch.arange(anchors, device=positive.device).expand(batch, -1)
    anchor_index = anchor.new_zeros(batch, capacity + 1).scatter(1, slot, anchor)[:, :capacity]
    valid = torch.arange(capacity, device=positive.device) < positive.sum(1, keepdim=True)
    gt_index = assignment.gt_index.gather(1, anchor_index)
    boxes = ground_truth.boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
    own_stride = stride[anchor_index]
    return Positives(
        anchor_index=anchor_index,
        valid=valid,
        labels=ground_truth.labels.gather(1, gt_index),
        scores=assignment.score.gather(1, anchor_index) * valid,
        points=points[anchor_index] / own_stride,
        boxes=boxes / own_stride,
    )


def gather_anchors(values: Tensor, anchor_index: Tensor) -> Tensor:
    """Rows (batch, P, channels) of values (batch, A, channels); the gradient of all others is 0."""
    batch, anchors, channels = values.shape
    first = torch.arange(batch, device=values.device)[:, None] * anchors
    flat = values.reshape(batch * anchors, channels).index_select(0, (anchor_index + first).flatten())
    return flat.view(batch, -1, channels)
