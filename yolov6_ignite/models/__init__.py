"""Detection networks: `build_model` makes one, in train mode it returns a `DetectorOutput`."""

from __future__ import annotations

from yolov6_ignite.models.build import build_model
from yolov6_ignite.models.cost import count_parameters, gflops
from yolov6_ignite.models.detector import Detector
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["Detector", "DetectorOutput", "build_model", "count_parameters", "gflops"]
