"""Training objectives: `build_loss` makes the one that a configuration describes."""

from yolov6_ignite.losses.anchor_aided import AnchorAidedLoss
from yolov6_ignite.losses.build import build_loss
from yolov6_ignite.losses.combined import SumOfLosses
from yolov6_ignite.losses.detection import DetectionLoss
from yolov6_ignite.losses.distillation import DistillationLoss

__all__ = ["AnchorAidedLoss", "DetectionLoss", "DistillationLoss", "SumOfLosses", "build_loss"]
