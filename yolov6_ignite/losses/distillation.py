"""The objective of self-distillation (specification, training 11.8 and 11.9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from yolov6_ignite.losses.detection import DetectionLoss
from yolov6_ignite.losses.divergence import class_divergence, distribution_divergence
from yolov6_ignite.losses.feature_distillation import channel_wise_divergence
from yolov6_ignite.losses.normaliser import one_if_zero
from yolov6_ignite.losses.positives import Positives, gather_anchors
from yolov6_ignite.losses.terms import CLASS_WEIGHT, DFL_WEIGHT, Items, add_by_name, total_and_items
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["DistillationLoss", "cosine_decay"]

FEATURE_WEIGHT = 10.0
FEATURE_LEVELS = 3  # the finest


def cosine_decay(epoch: int, max_epochs: int) -> float:
    """Weight of everything that comes from the teacher: 1 in epoch 0, 0.01 in epoch `max_epochs`."""
    return 1 - 0.99 * (1 - math.cos(math.pi * epoch / max_epochs)) / 2


class DistillationLoss(nn.Module):
    """Learns from labelled boxes and from a teacher's predictions.

    The teacher's part: KL divergences of all class probabilities (a sum over anchors, never normalised), of the
    distance distributions of positive anchors, where the network has them, and, if wanted, of the neck's maps. All in
    fp32; nothing waits for the device.

    Args:
        detection: what is learnt from labelled boxes; here its sums are divided by any sum of target scores but 0.
        temperature: softens class probabilities and distance distributions.
        class_weight: weight of the divergence of classes.
        dfl_weight: weight of the divergence of distance distributions.
        features: also compare the neck's first three maps, channel by channel.
    """

    def __init__(
        self,
        detection: DetectionLoss,
        *,
        temperature: float = 20.0,
        class_weight: float = 1.0,
        dfl_weight: float = 1.0,
        features: bool = False,
    ) -> None:
        super().__init__()
        self.detection = detection
        self.temperature = temperature
        self.class_weight = class_weight
        self.dfl_weight = dfl_weight
        self.features = features

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
            output: the student's predictions in train mode.
            targets: (n, 6) on the host: image, class, centre x, centre y, width, height, the last four normalised.
            epoch: 0-based.
            max_epochs: epochs of the run.
            image_size: (height, width) of the batch in pixels.
            teacher: the teacher's predictions in train mode; they get no gradient.

        Returns:
            The total to be minimised, and its weighted terms, detached: `iou`, `dfl`, `cls` and `cwd`, which is 0
            when features are not compared.

        Raises:
            ValueError: there is no teacher, or its predictions are not like the student's; or `targets` are not
                those of a batch of this size on the host.
            DatasetError: a class is unknown to the network.
        """
        if teacher is None:
            raise ValueError("this loss distils: it needs the predictions of a teacher")
        _check_alike("logits", output.logits, teacher.logits)
        _check_alike("distances", output.distances, teacher.distances)
        decay = cosine_decay(epoch, max_epochs)
        with torch.autocast(output.logits.device.type, enabled=False):
            positives = self.detection.assign(output, targets, epoch=epoch, image_size=image_size)
            distances = gather_anchors(output.distances, positives.anchor_index).float()
            scores = positives.scores
            images = scores.new_full((), scores.shape[0])
            score_sum, anchors, images = self.detection.reference_sums(scores.sum(), positives.valid.sum(), images)
            normaliser = one_if_zero(score_sum)
            from_labels = self.detection.terms(output, distances, positives, normaliser)

            classes = class_divergence(output.logits, teacher.logits, self.temperature)
            # A mean over rows, of which an anchor has four; 0 where all target scores are.
            rows = 4 * one_if_zero(anchors)
            bins = self._bins(distances, teacher, positives) / rows * (score_sum / normaliser)
            from_teacher = {
                "dfl": DFL_WEIGHT * self.dfl_weight * decay * bins,
                "cls": CLASS_WEIGHT * self.class_weight * decay * classes,
                "cwd": FEATURE_WEIGHT * decay * self._maps(output, teacher) / images,
            }
            return total_and_items(add_by_name(from_labels, from_teacher))

    def _bins(self, distances: Tensor, teacher: DetectorOutput, positives: Positives) -> Tensor:
        """Summed over positive anchors and their sides; 0 where distances are predicted directly."""
        if not self.detection.reg_max:
            return distances.new_zeros(())
        other = gather_anchors(teacher.distances, positives.anchor_index).float()
        return (distribution_divergence(distances, other, self.temperature) * positives.valid).sum()

    def _maps(self, output: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        """Summed over images."""
        if not self.features:
            return output.logits.new_zeros((), dtype=torch.float32)
        if output.neck_maps is None or teacher.neck_maps is None:
            raise ValueError("there are no maps of the neck to compare: predict in train mode")
        own, other = output.neck_maps[:FEATURE_LEVELS], teacher.neck_maps[:FEATURE_LEVELS]
        for student_map, teacher_map in zip(own, other, strict=True):
            _check_alike("neck_maps", student_map, teacher_map)
        return channel_wise_divergence(own, other)


def _check_alike(name: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"the teacher's {name} are {tuple(teacher.shape)}, the student's {tuple(student.shape)}")
