"""Training objectives: `build_loss` makes the one that a configuration describes."""

from __future__ import annotations

from yolov6_ignite.config import Config
from yolov6_ignite.losses.detection import DetectionLoss

__all__ = ["DetectionLoss", "build_loss"]


def build_loss(config: Config, num_classes: int) -> DetectionLoss:
    """The loss of a configuration's head, for a data set of so many classes."""
    head = config.model.head
    return DetectionLoss(
        num_classes,
        strides=head.strides,
        iou_type=head.iou_type,
        reg_max=head.reg_max,
        atss_warmup_epochs=head.atss_warmup_epoch,
        reference_world_size=config.solver.reference_world_size,
    )
