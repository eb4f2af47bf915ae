"""Optimizer, parameter groups and the schedule."""

from yolov6_ignite.optim.optimizer import build_optimizer, parameter_groups
from yolov6_ignite.optim.schedule import Schedule, build_schedule

__all__ = ["Schedule", "build_optimizer", "build_schedule", "parameter_groups"]
