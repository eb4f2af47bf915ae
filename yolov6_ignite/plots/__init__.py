"""Pictures of data, predictions and training, drawn with OpenCV: RGB arrays in, RGB arrays out."""

from __future__ import annotations

from yolov6_ignite.plots.batch import draw_batch
from yolov6_ignite.plots.detections import draw_detections, top_detections
from yolov6_ignite.plots.image_file import save_image
from yolov6_ignite.plots.palette import class_colour
from yolov6_ignite.plots.precision_recall import precision_recall_curve
from yolov6_ignite.plots.training_curves import training_curves

__all__ = [
    "class_colour",
    "draw_batch",
    "draw_detections",
    "precision_recall_curve",
    "save_image",
    "top_detections",
    "training_curves",
]
