"""The training objective of the anchor-free head (specification, training 11)."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from yolov6_ignite.assigners import Assignment, ATSSAssigner, GroundTruth, TaskAlignedAssigner
from yolov6_ignite.losses.dfl import distribution_focal_loss
from yolov6_ignite.losses.iou import IoUKind, iou_loss
from yolov6_ignite.losses.positives import Positives, gather_anchors, gather_positives
from yolov6_ignite.losses.targets import pad_targets
from yolov6_ignite.losses.varifocal import varifocal_loss
from yolov6_ignite.models.anchors import (
    anchor_points,
    boxes_to_distances,
    distances_to_boxes,
    distribution_to_distances,
)
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["DetectionLoss"]

CLASS_WEIGHT, IOU_WEIGHT, DFL_WEIGHT = 1.0, 2.5, 0.5


class DetectionLoss(nn.Module):
    """Varifocal loss on the classes, an IoU loss and distribution focal loss on the boxes of positive anchors.

    All in fp32, whatever the predictions' type and under autocast too. Nothing waits for the device.

    Args:
        num_classes: number of classes.
        strides: stride of every level in pixels, the finest first.
        iou_type: the box loss.
        reg_max: last bin of the distance distribution; 0: distances are predicted directly and there is no `dfl`.
        atss_warmup_epochs: so many first epochs assign by ATSS, the others by task alignment.
        reference_world_size: devices of the recipe. The losses are divided by the sum of target scores that one
            of them would see, so that they do not depend on how many there are here.
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
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.iou_type = iou_type
        self.reg_max = reg_max
        self.atss_warmup_epochs = atss_warmup_epochs
        self.reference_world_size = reference_world_size
        self.assigner = TaskAlignedAssigner()
        self.warmup_assigner = ATSSAssigner()
        self._anchors_of: tuple[object, tuple[Tensor, Tensor]] | None = None

    def forward(
        self,
        output: DetectorOutput,
        targets: Tensor,
        *,
        epoch: int,
        max_epochs: int,
        image_size: tuple[int, int],
        teacher: DetectorOutput | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
        logits, distances = output.logits, output.distances
        with torch.autocast(logits.device.type, enabled=False):
            truth = pad_targets(targets, logits.shape[0], self.num_classes, image_size, logits.device)
            points, stride = self._anchors(output)
            assignment = self._assign(output, truth, points, stride, warmup=epoch < self.atss_warmup_epochs)
            positives = gather_positives(assignment, truth)
            normaliser = self._normaliser(positives.scores)

            classification = self._classification(logits, positives) / normaliser
            box, dfl = self._boxes(distances, positives, points, stride)
            terms = {
                "iou": IOU_WEIGHT * box / normaliser,
                "dfl": DFL_WEIGHT * dfl / normaliser,
                "cls": CLASS_WEIGHT * classification,
            }
            total = terms["cls"] + terms["iou"] + terms["dfl"]
        return total, {name: term.detach() for name, term in terms.items()}

    def _anchors(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """Anchor points and strides in pixels; kept, since most batches have the size of the one before."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in output.feature_maps]
        key = (sizes, output.logits.device)
        if self._anchors_of is None or self._anchors_of[0] != key:
            self._anchors_of = key, anchor_points(sizes, self.strides, output.logits.device)
        return self._anchors_of[1]

    @torch.no_grad()
    def _assign(
        self, output: DetectorOutput, truth: GroundTruth, points: Tensor, stride: Tensor, *, warmup: bool
    ) -> Assignment:
        distances = output.distances.float()
        if self.reg_max:
            distances = distribution_to_distances(distances)
        boxes = distances_to_boxes(distances * stride, points)
        if warmup:
            level_sizes = [x.shape[-2] * x.shape[-1] for x in output.feature_maps]
            return self.warmup_assigner(boxes, points, stride, level_sizes, truth)
        return self.assigner(output.logits, boxes, points, truth)

    @torch.no_grad()
    def _normaliser(self, scores: Tensor) -> Tensor:
        """The sum of target scores that one device of the recipe would see, at least 1."""
        total = scores.sum()
        if idist.get_world_size() > 1:
            total = torch.as_tensor(idist.all_reduce(total))
        return (total / self.reference_world_size).clamp(min=1)

    def _classification(self, logits: Tensor, positives: Positives) -> Tensor:
        batch, anchors, classes = logits.shape
        image = torch.arange(batch, device=logits.device)[:, None]
        index = (image * anchors + positives.anchor_index) * classes + positives.labels
        return varifocal_loss(logits, index.flatten(), positives.scores.flatten(), positives.valid.flatten())

    def _boxes(self, distances: Tensor, positives: Positives, points: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the IoU and the distribution focal loss over positive anchors, weighted by their target scores."""
        own_stride = stride[positives.anchor_index]
        points = points[positives.anchor_index] / own_stride
        raw = gather_anchors(distances, positives.anchor_index).float()
        predicted = distances_to_boxes(distribution_to_distances(raw) if self.reg_max else raw, points)
        target = positives.boxes / own_stride
        # Slots that are not valid compare equal boxes, whose loss and gradient are finite in every case.
        valid = positives.valid[..., None]
        unit = torch.cat((points - 0.5, points + 0.5), dim=-1)
        losses = iou_loss(torch.where(valid, predicted, unit), torch.where(valid, target, unit), self.iou_type)
        box = (losses * positives.scores).sum()
        if not self.reg_max:
            return box, torch.zeros_like(box)
        losses = distribution_focal_loss(raw, boxes_to_distances(target, points, self.reg_max))
        return box, (losses * positives.scores).sum()
