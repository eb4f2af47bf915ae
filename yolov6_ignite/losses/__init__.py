"""Training objectives: `build_loss` makes the one that a configuration describes."""

from yolov6_ignite.losses.anchor_aided import AnchorAidedLoss
from yolov6_ignite.losses.build import build_loss, build_plain_loss
from yolov6_ignite.losses.combined import SumOfLosses
from yolov6_ignite.losses.detection import DetectionLoss
from yolov6_ignite.losses.distillation import DistillationLoss
from yolov6_ignite.losses.image_losses import ImageLosses

__all__ = [
    "AnchorAidedLoss",
    "DetectionLoss",
    "DistillationLoss",
    "ImageLosses",
    "SumOfLosses",
    "build_loss",
    "build_plain_loss",
]
