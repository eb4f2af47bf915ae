"""From a configuration to its training objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yolov6_ignite.config import Config, DistillConfig
from yolov6_ignite.losses.anchor_aided import AnchorAidedLoss
from yolov6_ignite.losses.combined import SumOfLosses
from yolov6_ignite.losses.detection import DetectionLoss
from yolov6_ignite.losses.distillation import DistillationLoss

__all__ = ["build_loss", "build_plain_loss"]


def build_loss(
    config: Config, num_classes: int, *, class_weights: Tensor | None = None, reduce_over_ranks: bool = True
) -> nn.Module:
    """The objective that a configuration describes, called as :class:`DetectionLoss` is.

    That of the anchor-free head, with that of the anchor-aided branch added (`train.fuse_ab`), or with a teacher's
    predictions to learn from (`distill.teacher`); then a call without `teacher` is an error, otherwise one with it.

    Args:
        config: the whole configuration.
        num_classes: classes of the data set.
        class_weights: (num_classes,) factors of the classification loss of each class's positive anchors.
        reduce_over_ranks: False computes from this rank alone, where ranks do not run in step.
    """
    head = config.model.head
    common: dict[str, Any] = {
        "strides": head.strides,
        "iou_type": head.iou_type,
        "reference_world_size": config.solver.reference_world_size,
        "class_weights": class_weights,
        "reduce_over_ranks": reduce_over_ranks,
    }
    # Distillation of N and S assigns by task alignment only.
    atss_warmup_epochs = 0 if config.distill_ns else head.atss_warmup_epoch
    detection = DetectionLoss(num_classes, reg_max=head.reg_max, atss_warmup_epochs=atss_warmup_epochs, **common)
    if config.distill.teacher is not None:
        return DistillationLoss(
            detection,
            temperature=config.distill.temperature,
            class_weight=config.distill.weights["class"],
            dfl_weight=config.distill.weights["dfl"],
            features=config.distill.features,
        )
    if config.train.fuse_ab:
        return SumOfLosses(detection, AnchorAidedLoss(num_classes, **common))
    return detection


def build_plain_loss(config: Config, num_classes: int, *, reg_max: int) -> nn.Module:
    """The loss of the branch that detects, whatever else a configuration trains with it, from this rank alone.

    Objects are always assigned by task alignment and classes weigh alike, so that all epochs and runs compare.

    Args:
        config: the whole configuration.
        num_classes: classes of the data set.
        reg_max: last bin of the distance distribution; 0: the network predicts distances directly.
    """
    head = config.model.head.model_copy(update={"atss_warmup_epoch": 0, "use_dfl": reg_max > 0, "reg_max": reg_max})
    plain = config.model_copy(
        update={
            "model": config.model.model_copy(update={"head": head}),
            "train": config.train.model_copy(update={"fuse_ab": False}),
            "distill": DistillConfig(),
        }
    )
    return build_loss(plain, num_classes, reduce_over_ranks=False)
