"""Adaptive training sample selection (ATSS, arXiv:1912.02424; specification, training 10.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov6_ignite.assigners.assignment import Assignment, GroundTruth, chunks, keep_best, settle_claims
from yolov6_ignite.assigners.overlap import box_iou, contains, corners, pair_corners

__all__ = ["ATSSAssigner"]

ANCHOR_STRIDES = 5  # side of a square anchor box in strides


class ATSSAssigner:
    """Gives each object the near anchors whose square box overlaps it more than is usual among them.

    It does not look at predictions, except for the target score, so it can start the training of a network that
    knows nothing.

    Args:
        top_k: nearest anchors a level that an object considers; fewer where a level has fewer.
        chunk_elements: pairs of object and anchor looked at together; default by device. The result is the same.
    """

    def __init__(self, top_k: int = 9, chunk_elements: int | None = None) -> None:
        self.top_k = top_k
        self.chunk_elements = chunk_elements

    @torch.no_grad()
    def __call__(
        self, boxes: Tensor, points: Tensor, strides: Tensor, level_sizes: Sequence[int], ground_truth: GroundTruth
    ) -> Assignment:
        """Assigns a batch.

        Args:
            boxes: (batch, A, 4) predicted boxes, x1, y1, x2, y2 in pixels, fp32.
            points: (A, 2) anchor points in pixels.
            strides: (A, 1) stride of each anchor in pixels.
            level_sizes: number of anchors of each level; their sum is A.
            ground_truth: the objects.
        """
        batch, anchors, _ = boxes.shape
        _, gt_boxes, valid = ground_truth
        objects = gt_boxes.shape[1]
        half = strides * (ANCHOR_STRIDES / 2)
        anchor_boxes = pair_corners(torch.cat((points - half, points + half), -1)[None])
        x, y = points.unbind(-1)

        best: tuple[Tensor, Tensor] | None = None
        considered, claims = [], []
        for part in chunks(batch, anchors, objects, self.chunk_elements, boxes.device):
            gt = corners(gt_boxes[:, part, None])
            iou = box_iou(gt, anchor_boxes)
            best = keep_best(best, iou, part.start)
            index = self._nearest(gt, x, y, level_sizes)
            overlap = iou.gather(-1, index)
            std, mean = torch.std_mean(overlap, dim=-1, keepdim=True)
            claimed = (overlap > mean + std).logical_and_(contains(gt, x[index], y[index]))
            considered.append(index)
            claims.append(claimed.logical_and_(valid[:, part, None]))
        assert best is not None
        gt_index, positive = settle_claims(torch.cat(considered, 1), torch.cat(claims, 1), best[1])

        own_box = gt_boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
        score = box_iou(corners(own_box), corners(boxes)).mul_(positive)
        return Assignment(gt_index, positive, score, min(anchors, objects * considered[0].shape[-1]))

    def _nearest(
        self, gt: tuple[Tensor, Tensor, Tensor, Tensor], x: Tensor, y: Tensor, level_sizes: Sequence[int]
    ) -> Tensor:
        """Indices (batch, m, candidates) of the anchors nearest to the objects' centres, level after level."""
        x1, y1, x2, y2 = gt
        distance = ((x1 + x2) / 2 - x).square_().add_(((y1 + y2) / 2 - y).square_())
        nearest, first = [], 0
        for level, size in zip(distance.split(list(level_sizes), dim=-1), level_sizes, strict=True):
            nearest.append(level.topk(min(self.top_k, size), dim=-1, largest=False).indices + first)
            first += size
        return torch.cat(nearest, -1)
