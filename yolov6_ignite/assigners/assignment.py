"""What an assigner gets and gives, and how anchors claimed by several ground truths are settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Assignment", "GroundTruth", "chunks", "keep_best", "settle_claims"]

CPU_CHUNK = 2**19  # anchor x ground truth pairs at a time: temporaries stay in the cache
DEVICE_CHUNK = 2**22  # more work a kernel; 16 MiB a temporary


class GroundTruth(NamedTuple):
    """The objects of a batch, padded to one number M >= 1 an image.

    Attributes:
        labels: (batch, M) int64 classes, 0 on padding.
        boxes: (batch, M, 4) x1, y1, x2, y2 in pixels, 0 on padding.
        valid: (batch, M) bool, False on padding.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor


class Assignment(NamedTuple):
    """Which anchor learns which object.

    Attributes:
        gt_index: (batch, A) int64, row of the ground truth; 0 on the background.
        positive: (batch, A) bool.
        score: (batch, A) target class score in [0, 1]; 0 on the background.
        capacity: no image has more positives than this; known without asking the device.
    """

    gt_index: Tensor
    positive: Tensor
    score: Tensor
    capacity: int


def chunks(batch: int, anchors: int, objects: int, limit: int | None, device: torch.device) -> Iterator[slice]:
    """Slices of the ground truths (at least one each) so that a (batch, slice, anchors) tensor has `limit` elements."""
    if limit is None:
        limit = CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK
    step = max(1, limit // (batch * anchors))
    return (slice(start, min(start + step, objects)) for start in range(0, objects, step))


def keep_best(best: tuple[Tensor, Tensor] | None, iou: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Goes on with the highest IoU (batch, A) and its ground truth, the first of equals, by a chunk (batch, m, A)."""
    value, index = iou.max(dim=1)
    index += start
    if best is None:
        return value, index
    better = value > best[0]
    return torch.where(better, value, best[0]), torch.where(better, index, best[1])


def settle_claims(anchor_index: Tensor, claimed: Tensor, best_gt: Tensor) -> tuple[Tensor, Tensor]:
    """One ground truth an anchor (specification, training 10.2, steps 5 and 6).

    An anchor that several ground truths claim goes to the one it overlaps most, which need not be one of them.

    Args:
        anchor_index: (batch, M, k) the anchors that each ground truth considered, distinct in each row.
        claimed: (batch, M, k) bool, whether it took them.
        best_gt: (batch, A) ground truth of highest overlap.

    Returns:
        gt_index (batch, A) int64, 0 on the background, and positive (batch, A) bool.
    """
    batch, objects, k = anchor_index.shape
    anchors = best_gt.shape[1]
    # What is not claimed goes to an extra column: no boolean indexing, no synchronisation.
    index = torch.where(claimed, anchor_index, anchors).flatten(1)
    rows = torch.arange(objects, device=index.device)[:, None].expand(objects, k).reshape(1, -1).expand(batch, -1)
    blank = rows.new_zeros(batch, anchors + 1)
    claims = blank.scatter_add(1, index, torch.ones_like(rows))[:, :anchors]
    owner = blank.scatter(1, index, rows)[:, :anchors]
    return torch.where(claims > 1, best_gt, owner), claims > 0
