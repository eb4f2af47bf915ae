"""Optimizer, parameter groups, frozen modules and the schedule."""

from yolov6_ignite.optim.freeze import freeze
from yolov6_ignite.optim.optimizer import build_optimizer, parameter_groups
from yolov6_ignite.optim.rep_scales import BlockScales, gradient_masks, reinitialise, rep_scales
from yolov6_ignite.optim.rep_sgd import RepSGD
from yolov6_ignite.optim.schedule import DECAYS, Schedule, build_schedule

__all__ = [
    "DECAYS",
    "BlockScales",
    "RepSGD",
    "Schedule",
    "build_optimizer",
    "build_schedule",
    "freeze",
    "gradient_masks",
    "parameter_groups",
    "reinitialise",
    "rep_scales",
]
