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
        boxes: (batch, P, 4) box of the assigned object, x1, y1, x2, y2 in pixels.
        scores: (batch, P) target class score, 0 where not valid.
    """

    anchor_index: Tensor
    valid: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor


def gather_positives(assignment: Assignment, ground_truth: GroundTruth) -> Positives:
    """Lists the positive anchors in order, with what they are to learn, without asking the device how many they are."""
    positive = assignment.positive
    batch, anchors = positive.shape
    capacity = assignment.capacity
    slot = torch.where(positive, positive.cumsum(1) - 1, capacity)  # the background goes to an extra slot
    anchor = torch.arange(anchors, device=positive.device).expand(batch, -1)
    anchor_index = anchor.new_zeros(batch, capacity + 1).scatter(1, slot, anchor)[:, :capacity]
    valid = torch.arange(capacity, device=positive.device) < positive.sum(1, keepdim=True)
    gt_index = assignment.gt_index.gather(1, anchor_index)
    return Positives(
        anchor_index=anchor_index,
        valid=valid,
        labels=ground_truth.labels.gather(1, gt_index),
        boxes=ground_truth.boxes.gather(1, gt_index[..., None].expand(-1, -1, 4)),
        scores=assignment.score.gather(1, anchor_index) * valid,
    )


def gather_anchors(values: Tensor, anchor_index: Tensor) -> Tensor:
    """Rows (batch, P, channels) of values (batch, A, channels); the gradient of all others is 0."""
    batch, anchors, channels = values.shape
    first = torch.arange(batch, device=values.device)[:, None] * anchors
    flat = values.reshape(batch * anchors, channels).index_select(0, (anchor_index + first).flatten())
    return flat.view(batch, -1, channels)
