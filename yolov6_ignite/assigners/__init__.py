"""Label assignment: which anchor learns which object."""

from yolov6_ignite.assigners.assignment import Assignment, GroundTruth
from yolov6_ignite.assigners.atss import ATSSAssigner
from yolov6_ignite.assigners.tal import TaskAlignedAssigner

__all__ = ["ATSSAssigner", "Assignment", "GroundTruth", "TaskAlignedAssigner"]
