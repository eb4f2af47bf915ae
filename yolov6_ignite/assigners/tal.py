"""Task-aligned assignment (TOOD, arXiv:2108.07755; specification, training 10.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov6_ignite.assigners.assignment import Assignment, GroundTruth, chunks, keep_best, settle_claims
from yolov6_ignite.assigners.overlap import box_iou, contains, corners, pair_corners

__all__ = ["TaskAlignedAssigner"]

METRIC_EPS = 1e-9


def alignment_(iou: Tensor, score: Tensor) -> Tensor:
    """score^1 x IoU^6, in new memory."""
    cube = (iou * iou).mul_(iou)
    return cube.mul_(cube).mul_(score)


class TaskAlignedAssigner:
    """Gives each object the anchors inside it that agree best on class and box.

    Memory is bounded whatever the number of objects: pairs are looked at in chunks, and only `top_k` anchors an
    object are remembered.

    Args:
        top_k: anchors that an object may claim.
        chunk_elements: pairs of object and anchor looked at together; default by device. The result is the same.
    """

    def __init__(self, top_k: int = 13, chunk_elements: int | None = None) -> None:
        self.top_k = top_k
        self.chunk_elements = chunk_elements

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, points: Tensor, ground_truth: GroundTruth) -> Assignment:
        """Assigns a batch.

        Args:
            logits: (batch, A, classes) class logits of any float type.
            boxes: (batch, A, 4) predicted boxes, x1, y1, x2, y2 in pixels, fp32.
            points: (A, 2) anchor points in pixels.
            ground_truth: the objects.
        """
        batch, anchors, classes = logits.shape
        labels, gt_boxes, valid = ground_truth
        objects = labels.shape[1]
        k = min(self.top_k, anchors)
        scores = boxes.new_empty(batch, classes, anchors).copy_(logits.transpose(1, 2)).sigmoid_()
        score_rows = scores.view(batch * classes, anchors)
        row_of_gt = labels + torch.arange(batch, device=labels.device)[:, None] * classes
        predicted = pair_corners(boxes)
        x, y = points.unbind(-1)

        best: tuple[Tensor, Tensor] | None = None
        considered, claims = [], []
        for part in chunks(batch, anchors, objects, self.chunk_elements, boxes.device):
            gt = corners(gt_boxes[:, part, None])
            iou = box_iou(gt, predicted)
            best = keep_best(best, iou, part.start)
            inside = contains(gt, x, y)
            score = score_rows.index_select(0, row_of_gt[:, part].flatten()).view_as(iou)
            index = alignment_(iou, score).mul_(inside).topk(k, dim=-1).indices
            considered.append(index)
            # Anchors inside with a metric of 0 count too: they fill the k of an object that few predictions meet.
            claims.append(inside.gather(-1, index).logical_and_(valid[:, part, None]))
        assert best is not None
        gt_index, positive = settle_claims(torch.cat(considered, 1), torch.cat(claims, 1), best[1])

        own_box = gt_boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
        iou = box_iou(corners(own_box), corners(boxes)).mul_(positive)
        metric = alignment_(iou, scores.gather(1, labels.gather(1, gt_index)[:, None]).squeeze(1))
        # Each object's best anchor gets its best IoU as target score, the others in proportion.
        zeros = boxes.new_zeros(batch, objects)
        top_metric = zeros.scatter_reduce(1, gt_index, metric, "amax").gather(1, gt_index)
        top_iou = zeros.scatter_reduce(1, gt_index, iou, "amax").gather(1, gt_index)
        score = metric * top_iou / (top_metric + METRIC_EPS)
        return Assignment(gt_index, positive, score, min(anchors, objects * k))
