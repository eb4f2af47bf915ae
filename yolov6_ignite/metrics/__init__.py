"""Suppression of double detections, and COCO average precision."""

from __future__ import annotations

from yolov6_ignite.metrics.boxes import cxcywh_to_xyxy, rescale_to_native, xyxy_to_coco
from yolov6_ignite.metrics.coco import CocoMeanAveragePrecision
from yolov6_ignite.metrics.coco_result import ClassResult, CocoResult
from yolov6_ignite.metrics.ground_truth import CocoGroundTruth
from yolov6_ignite.metrics.nms import non_max_suppression

__all__ = [
    "ClassResult",
    "CocoGroundTruth",
    "CocoMeanAveragePrecision",
    "CocoResult",
    "cxcywh_to_xyxy",
    "non_max_suppression",
    "rescale_to_native",
    "xyxy_to_coco",
]
