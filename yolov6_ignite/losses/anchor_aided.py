"""The objective of the anchor-aided branch (specification, training 11.7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.assigners import TaskAlignedAssigner
from yolov6_ignite.losses.anchor_grid import AnchorGrid
from yolov6_ignite.losses.iou import IoUKind
from yolov6_ignite.losses.normaliser import ReferenceSums, one_if_zero
from yolov6_ignite.losses.positives import gather_anchors, gather_positives
from yolov6_ignite.losses.targets import pad_targets
from yolov6_ignite.losses.terms import Items, checked_class_weights, label_terms, total_and_items
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["AnchorAidedLoss"]

TOP_K = 26  # twice as many as anchor-free: there are three anchors a cell


class AnchorAidedLoss(nn.Module):
    """Varifocal loss on the classes and an IoU loss on the boxes of the anchor-aided branch.

    Task alignment from the first epoch on. The boxes are no distributions, so `dfl` is 0. All in fp32; nothing waits
    for the device.

    Args:
        num_classes: number of classes.
        strides: stride of every level in pixels, the finest first.
        iou_type: the box loss.
        reference_world_size: devices of the recipe, as in :class:`DetectionLoss`.
        class_weights: (num_classes,) factors of the classification loss of each class's positive anchors.
        reduce_over_ranks: False computes from this rank alone, as if there were no others.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        strides: Sequence[int] = (8, 16, 32),
        iou_type: IoUKind = "giou",
        reference_world_size: int = 1,
        class_weights: Tensor | None = None,
        reduce_over_ranks: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.iou_type = iou_type
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", checked_class_weights(class_weights, num_classes), persistent=False)
        self.reference_sums = ReferenceSums(reference_world_size, reduce_over_ranks=reduce_over_ranks)
        self.assigner = TaskAlignedAssigner(TOP_K)
        self._grid = AnchorGrid(strides)

    def forward(
        self,
        output: DetectorOutput,
        targets: Tensor,
        *,
        epoch: int,
        max_epochs: int,
        image_size: tuple[int, int],
        teacher: DetectorOutput | None = None,
    ) -> tuple[Tensor, Items]:
        """Computes the loss of a batch; arguments and results as in :meth:`DetectionLoss.forward`.

        Raises:
            ValueError: a teacher is given, the network has no anchor-aided branch, or `targets` are not those of a
                batch of this size on the host.
            DatasetError: a class is unknown to the network.
        """
        if teacher is not None:
            raise ValueError("this loss does not distil: leave teacher out")
        logits, raw = output.anchor_logits, output.anchor_boxes
        if logits is None or raw is None:
            raise ValueError("the network has no anchor-aided branch: build it with fuse_ab=True")
        with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
            truth = pad_targets(targets, logits.shape[0], self.num_classes, image_size, logits.device)
            points, stride = self._grid(output, anchors_per_cell=logits.shape[1] // output.logits.shape[1])
            boxes = _to_corners(raw.float(), points / stride) * stride
            assignment = self.assigner(logits, boxes, points, truth)
            positives = gather_positives(assignment, truth, points, stride)
            (score_sum,) = self.reference_sums(positives.scores.sum())
        with torch.autocast(logits.device.type, enabled=False):
            predicted = _to_corners(gather_anchors(raw, positives.anchor_index).float(), positives.points)
            terms = label_terms(
                logits,
                [predicted],
                positives,
                one_if_zero(score_sum),
                iou_type=self.iou_type,
                class_weights=self.class_weights,
            )
            return total_and_items(terms)


def _to_corners(raw: Tensor, points: Tensor) -> Tensor:
    """Corners of boxes (..., 4) given as offset of the centre from the anchor point, and size; all in strides."""
    offset, size = raw.chunk(2, dim=-1)
    low = points + offset - size / 2
    return torch.cat((low, low + size), dim=-1)
