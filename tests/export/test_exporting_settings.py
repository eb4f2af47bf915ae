"""Which settings go with which weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.settings import ExportSettings
from yolov6_ignite.quantization import QuantizationSpec

TENSORRT = QuantizationSpec(skip=("detect.*",), placement="activations")
ONNXRUNTIME = QuantizationSpec(target="onnxruntime")


def test_float_weights_are_not_quantised() -> None:
    assert ExportSettings().quantization_of(None) is None
    with pytest.raises(ConfigError, match=r"--target: .* calibrate these first \(quant.mode=ptq\)"):
        ExportSettings(target="tensorrt").quantization_of(None)


def test_another_target_has_its_own_placement() -> None:
    assert ExportSettings().quantization_of(TENSORRT) == TENSORRT
    assert ExportSettings(target="tensorrt").quantization_of(TENSORRT) == TENSORRT
    other = ExportSettings(target="onnxruntime").quantization_of(TENSORRT)
    assert other == replace(TENSORRT, target="onnxruntime", placement=None)
    assert other.quantizes_activations
    back = ExportSettings(target="tensorrt").quantization_of(ONNXRUNTIME)
    assert back is not None
    assert not back.quantizes_activations


@pytest.mark.parametrize(
    ("spec", "settings", "opset"),
    [
        (None, {}, 18),
        (None, {"half": True}, 18),
        (TENSORRT, {}, 18),
        (TENSORRT, {"half": True}, 19),
        (TENSORRT, {"half": True, "opset": 20}, 20),
        (ONNXRUNTIME, {}, 18),
        (ONNXRUNTIME, {"opset": 22}, 22),
    ],
)
def test_operator_sets(spec: QuantizationSpec | None, settings: dict[str, Any], opset: int) -> None:
    made = ExportSettings(**settings)
    assert made.opset_for(made.quantization_of(spec)) == opset


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (TENSORRT, {"format": "torchscript"}, "--format torchscript: has no quantised form; choose --format onnx"),
        (replace(TENSORRT, bits=4), {}, "quantised weights of 4 bits: .* quantise to 8 bits"),
        (ONNXRUNTIME, {"half": True}, "--half: .* onnxruntime is fp32; choose --target tensorrt"),
        (TENSORRT, {"half": True, "target": "onnxruntime"}, "--half: .* choose --target tensorrt"),
        (TENSORRT, {"half": True, "opset": 18}, "--half: quantised models need --opset 19 or later, not 18"),
        (TENSORRT, {"opset": 21}, "--opset: 21 with signed integers, .* choose 18 to 20"),
        (ONNXRUNTIME, {"opset": 22, "target": "tensorrt"}, "--opset: 22 with signed integers"),
    ],
)
def test_what_quantised_weights_cannot_become(spec: QuantizationSpec, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportSettings(**settings).quantization_of(spec)
