"""Quantisation: integers of few bits in place of floating point, simulated for training and accuracy."""

from __future__ import annotations

from yolov6_ignite.quantization.calibration import calibrate, calibrate_weights, check_calibrated
from yolov6_ignite.quantization.folding import fold_batch_norms
from yolov6_ignite.quantization.insertion import (
    configure_quantizers,
    insert_quantizers,
    quantized_layers,
    quantized_model,
    quantizers,
    set_mode,
)
from yolov6_ignite.quantization.quantizer import TensorQuantizer
from yolov6_ignite.quantization.spec import QuantizationSpec

__all__ = [
    "QuantizationSpec",
    "TensorQuantizer",
    "calibrate",
    "calibrate_weights",
    "check_calibrated",
    "configure_quantizers",
    "fold_batch_norms",
    "insert_quantizers",
    "quantized_layers",
    "quantized_model",
    "quantizers",
    "set_mode",
]
