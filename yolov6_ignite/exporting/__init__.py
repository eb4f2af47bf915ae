"""Models as files for other runtimes: the graphs, the files, and the check that a file computes what the model does."""

from __future__ import annotations

from yolov6_ignite.exporting.export import Exported, export_model
from yolov6_ignite.exporting.onnx_detector import OnnxDetector, load_onnx_detector
from yolov6_ignite.exporting.settings import ExportSettings, Thresholds

__all__ = ["ExportSettings", "Exported", "OnnxDetector", "Thresholds", "export_model", "load_onnx_detector"]
