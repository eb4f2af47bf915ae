"""Quantisation: integers of few bits in place of floating point, simulated for training and accuracy."""

from __future__ import annotations

from yolov6_ignite.quantization.calibration import (
    Calibrator,
    calibrate,
    calibrate_weights,
    check_calibrated,
    check_trainable,
)
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
from yolov6_ignite.quantization.sensitivity import (
    Accuracy,
    Sensitivity,
    measure_sensitivity,
    read_skipped_layers,
    skip_patterns,
)
from yolov6_ignite.quantization.spec import QuantizationSpec

__all__ = [
    "Accuracy",
    "Calibrator",
    "QuantizationSpec",
    "Sensitivity",
    "TensorQuantizer",
    "calibrate",
    "calibrate_weights",
    "check_calibrated",
    "check_trainable",
    "configure_quantizers",
    "fold_batch_norms",
    "insert_quantizers",
    "measure_sensitivity",
    "quantized_layers",
    "quantized_model",
    "quantizers",
    "read_skipped_layers",
    "set_mode",
    "skip_patterns",
]
