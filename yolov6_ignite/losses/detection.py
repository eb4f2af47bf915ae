"""The training objective of the anchor-free head (specification, training 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.assigners import ATSSAssigner, TaskAlignedAssigner
from yolov6_ignite.losses.anchor_grid import AnchorGrid
from yolov6_ignite.losses.iou import IoUKind
from yolov6_ignite.losses.normaliser import ReferenceSums
from yolov6_ignite.losses.positives import Positives, gather_anchors, gather_positives
from yolov6_ignite.losses.targets import pad_targets
from yolov6_ignite.losses.terms import Items, checked_class_weights, label_terms, total_and_items
from yolov6_ignite.models.anchors import distances_to_boxes, distribution_to_distances
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["DetectionLoss"]


class DetectionLoss(nn.Module):
    """Varifocal loss on the classes, an IoU loss and distribution focal loss on the boxes of positive anchors.

    All in fp32, whatever the predictions' type and under autocast too. Nothing waits for the device. A head that
    predicts distances beside their distribution (`ltrb`) learns the boxes by both.

    Args:
        num_classes: number of classes.
        strides: stride of every level in pixels, the finest first.
        iou_type: the box loss.
        reg_max: last bin of the distance distribution; 0: distances are predicted directly and there is no `dfl`.
        atss_warmup_epochs: so many first epochs assign by ATSS, the others by task alignment.
        reference_world_size: devices of the recipe. The losses are divided by the sum of target scores that one
            of them would see, so that they do not depend on how many there are here.
        class_weights: (num_classes,) factors of the classification loss of each class's positive anchors.
        reduce_over_ranks: False computes from this rank alone, as if there were no others.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        strides: Sequence[int] = (8, 16, 32),
        iou_type: IoUKind = "giou",
        reg_max: int = 0,
        atss_warmup_epochs: int = 0,
        reference_world_size: int = 1,
        class_weights: Tensor | None = None,
        reduce_over_ranks: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.iou_type = iou_type
        self.reg_max = reg_max
        self.atss_warmup_epochs = atss_warmup_epochs
        self.reference_world_size = reference_world_size
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", checked_class_weights(class_weights, num_classes), persistent=False)
        self.reference_sums = ReferenceSums(reference_world_size, reduce_over_ranks=reduce_over_ranks)
        self.assigner = TaskAlignedAssigner()
        self.warmup_assigner = ATSSAssigner()
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
        """Computes the loss of a batch.

        Args:
            output: predictions in train mode.
            targets: (n, 6) on the host: image, class, centre x, centre y, width, height, the last four normalised.
            epoch: 0-based.
            max_epochs: epochs of the run.
            image_size: (height, width) of the batch in pixels.
            teacher: predictions of a teacher; this loss has no use for one.

        Returns:
            The total to be minimised, and its weighted terms, detached: `iou`, `dfl` and `cls`.

        Raises:
            ValueError: a teacher is given, or `targets` are not those of a batch of this size on the host.
            DatasetError: a class is unknown to the network.
        """
        if teacher is not None:
            raise ValueError("this loss does not distil: leave teacher out")
        with torch.autocast(output.logits.device.type, enabled=False):
            positives = self.assign(output, targets, epoch=epoch, image_size=image_size)
            distances = gather_anchors(output.distances, positives.anchor_index).float()
            return total_and_items(self.terms(output, distances, positives, self._normaliser(positives.scores)))

    @torch.no_grad()
    def assign(self, output: DetectorOutput, targets: Tensor, *, epoch: int, image_size: tuple[int, int]) -> Positives:
        """The positive anchors of a batch and what they are to learn; arguments as in :meth:`forward`."""
        logits = output.logits
        truth = pad_targets(targets, logits.shape[0], self.num_classes, image_size, logits.device)
        points, stride = self._grid(output)
        boxes = distances_to_boxes(self._expected(output.distances.float()) * stride, points)
        if epoch < self.atss_warmup_epochs:
            level_sizes = [x.shape[-2] * x.shape[-1] for x in output.feature_maps]
            assignment = self.warmup_assigner(boxes, points, stride, level_sizes, truth)
        else:
            assignment = self.assigner(logits, boxes, points, truth)
        return gather_positives(assignment, truth, points, stride)

    def terms(self, output: DetectorOutput, distances: Tensor, positives: Positives, normaliser: Tensor) -> Items:
        """The weighted terms.

        Args:
            output: predictions in train mode.
            distances: (batch, P, ...) its distances, or their distribution, at the positive anchors, in fp32.
            positives: of :meth:`assign`.
            normaliser: what sums are divided by.
        """
        boxes = [distances_to_boxes(self._expected(distances), positives.points)]
        if output.ltrb is not None:
            ltrb = gather_anchors(output.ltrb, positives.anchor_index).float()
            boxes.append(distances_to_boxes(ltrb, positives.points))
        return label_terms(
            output.logits,
            boxes,
            positives,
            normaliser,
            iou_type=self.iou_type,
            distribution=distances if self.reg_max else None,
            class_weights=self.class_weights,
        )

    def _expected(self, distances: Tensor) -> Tensor:
        return distribution_to_distances(distances) if self.reg_max else distances

    def _normaliser(self, scores: Tensor) -> Tensor:
        """The sum of target scores that one device of the recipe would see, at least 1."""
        (total,) = self.reference_sums(scores.sum())
        return total.clamp(min=1)
