"""Exported integers: what the graph is made of, and that it computes what the fake-quantised model does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov6_ignite.exporting import ExportSettings, export_model
from yolov6_ignite.exporting.quantized_graph import quantized_for
from yolov6_ignite.exporting.runtimes import OnnxSession
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_layers, quantized_model
from yolov6_ignite.weights import Weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

Make = Callable[..., Weights]
CONVOLUTIONS = ("Conv", "ConvTranspose")
TINY = {"model.width_multiple": 0.125, "model.depth_multiple": 0.1}
NETWORKS: dict[str, tuple[str, float, dict[str, Any], bool, str]] = {  # recipe, gain, changes, batch norms, target
    "n": ("yolov6n", 0.6, TINY, False, "tensorrt"),
    "s_qa": ("qarepvgg/yolov6s_qa", 0.4, TINY, False, "onnxruntime"),
    "n_opt_with_bn": ("repopt/yolov6n_opt", 0.6, TINY, True, "onnxruntime"),
    "m": ("yolov6m", 0.8, TINY, False, "tensorrt"),
    "n6": ("yolov6n6", 0.6, TINY, False, "onnxruntime"),
    "lite_s": ("yolov6_lite/yolov6_lite_s", 1.0, {"model.neck.unified_channels": 32}, False, "tensorrt"),
    "s_mbla": ("mbla/yolov6s_mbla", 1.0, TINY, False, "onnxruntime"),
}


class Graph:
    """An ONNX file, to be asked about."""

    def __init__(self, file: Path) -> None:
        self.graph = onnx.load(str(file)).graph
        self.constants = {item.name: onnx.numpy_helper.to_array(item) for item in self.graph.initializer}
        self.makers = {output: node for node in self.graph.node for output in node.output}
        self.convolutions = [node for node in self.graph.node if node.op_type in CONVOLUTIONS]

    def kinds(self) -> Counter[str]:
        return Counter(node.op_type for node in self.graph.node)

    def dequantized_by(self, name: str) -> Any:
        """The DequantizeLinear that gives a value, or None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def weight_types(self) -> Counter[str]:
        """Convolutions by what their weights come from; checks scales by output channel on the way."""
        found: Counter[str] = Counter()
        for node in self.convolutions:
            made = self.dequantized_by(node.input[1])
            if made is None:
                found["float"] += 1
                continue
            found["constant" if made.input[0] in self.constants else self.makers[made.input[0]].op_type] += 1
            axis = {item.name: item.i for item in made.attribute}["axis"]
            assert axis == (1 if node.op_type == "ConvTranspose" else 0)
            source = made.input[0] if made.input[0] in self.constants else self.makers[made.input[0]].input[0]
            weight, scale, zero_point = (self.constants[name] for name in (source, *made.input[1:]))
            assert scale.shape == zero_point.shape == (weight.shape[axis],)
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        return found

    def activation_zero_points(self) -> set[tuple[str, int]]:
        return {
            (str(self.constants[node.input[2]].dtype), int(self.constants[node.input[2]]))
            for node in self.graph.node
            if node.op_type == "QuantizeLinear" and self.constants[node.input[2]].ndim == 0
        }

    def quantized_twice(self) -> list[str]:
        """Values that are rounded to a grid on which they are already."""
        found = []
        for node in self.graph.node:
            before = self.dequantized_by(node.input[0]) if node.op_type == "QuantizeLinear" else None
            if before is not None and all(
                np.array_equal(self.constants[a], self.constants[b])
                for a, b in zip(before.input[1:], node.input[1:], strict=True)
            ):
                found.append(node.name)
        return found


def integer_share(file: Path, folder: Path) -> float:
    """Of the convolutions that onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    kinds = Graph(folder / "optimized.onnx").kinds()
    return kinds["QLinearConv"] / (kinds["QLinearConv"] + kinds["Conv"] + kinds["FusedConv"])


def test_yolov6n_for_onnxruntime(random_weights: Make, quantized: Make, tmp_path: Path) -> None:
    spec = QuantizationSpec(method="max", target="onnxruntime")
    weights = quantized(random_weights(classes=80, gain=0.5), spec, (320, 320))
    file = tmp_path / "n.onnx"
    done = export_model(weights, file, ExportSettings(image_size=(320, 320)))
    assert done.unoptimized is not None
    assert min(done.unoptimized.boxes_db, done.unoptimized.scores_db) >= 40
    assert min(done.agreement.boxes_db, done.agreement.scores_db) >= 30
    fp32_bytes = 4 * sum(parameter.numel() for parameter in weights.build().parameters())
    assert file.stat().st_size <= 0.30 * fp32_bytes
    assert integer_share(file, tmp_path) >= 0.85
    graph = Graph(file)
    assert graph.activation_zero_points() == {("uint8", 0), ("uint8", 128)}
    assert graph.weight_types() == {"constant": len(graph.convolutions)}
    assert graph.quantized_twice() == []
    session = OnnxSession(file, file)
    for batch in (1, 5):
        assert session(torch.rand(batch, 3, 320, 320))[0].shape == (batch, 2100, 85)


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_channels_that_are_nothing_but_their_bias(
    size: float, random_weights: Make, tiny: dict[str, float], quantized: Make, tmp_path: Path
) -> None:
    weights = random_weights(**tiny)
    spec = QuantizationSpec(method="max", target="onnxruntime")
    model = quantized_model(weights.build(), spec)  # in the form whose biases stand beside the weights
    for name in quantized_layers(model)[2:8]:
        layer: Any = model.get_submodule(name)
        layer.weight.data[:2] *= size
        layer.bias.data[:2] = 1.0
    calibrate(model, [torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(1))], spec)
    weights = replace(weights, state=model.state_dict(), quantization=spec)
    done = export_model(weights, tmp_path / "model.onnx", ExportSettings(image_size=(64, 96)))
    assert min(done.agreement.boxes_db, done.agreement.scores_db) >= 40


@pytest.mark.parametrize("network", NETWORKS)
def test_every_kind_of_network(network: str, random_weights: Make, quantized: Make, tmp_path: Path) -> None:
    recipe, gain, changes, keep_batch_norm, target = NETWORKS[network]
    size = (128, 192) if network == "n6" else (64, 96)
    spec = QuantizationSpec(method="max", keep_batch_norm=keep_batch_norm)  # calibrated for both targets
    weights = quantized(random_weights(recipe, gain=gain, **changes), spec, size)
    file = tmp_path / "model.onnx"
    done = export_model(weights, file, ExportSettings(image_size=size, target=target))  # type: ignore[arg-type]
    assert done.quantization is not None
    assert done.quantization.target == target
    assert done.unoptimized is not None
    assert min(done.unoptimized.boxes_db, done.unoptimized.scores_db) >= 40
    graph = Graph(file)
    source = "QuantizeLinear" if target == "tensorrt" else "constant"
    assert graph.weight_types() == {source: len(graph.convolutions)}
    assert graph.quantized_twice() == []
    found = graph.activation_zero_points()
    assert found == {("int8", 0)} if target == "tensorrt" else found <= {("uint8", 0), ("uint8", 128)}


@pytest.mark.parametrize(
    ("target", "simplify", "opset"), [("tensorrt", False, 18), ("tensorrt", True, 20), ("onnxruntime", False, 21)]
)
def test_skipped_layers_are_float(
    target: Any,
    simplify: bool,
    opset: int,
    random_weights: Make,
    tiny: dict[str, float],
    quantized: Make,
    tmp_path: Path,
) -> None:
    if simplify:
        pytest.importorskip("onnxslim")
    spec = QuantizationSpec(method="max", target=target, skip=("detect.*", "neck.Rep_p4.*", "neck.Bifusion0.*"))
    weights = quantized(random_weights(**tiny), spec)
    file = tmp_path / "model.onnx"
    export_model(weights, file, ExportSettings(image_size=(64, 96), simplify=simplify, opset=opset))
    model = quantized_for(weights.build(), spec)
    layers = [model.get_submodule(name) for name in quantized_layers(model)]
    convolutions = sum("Conv" in type(layer).__name__ for layer in layers)
    graph = Graph(file)
    source = "QuantizeLinear" if target == "tensorrt" else "constant"
    assert graph.weight_types() == {source: convolutions, "float": len(graph.convolutions) - convolutions}
    for node in graph.convolutions:  # a layer reads integers if, and only if, it has them
        reads = graph.dequantized_by(node.input[0])
        if graph.dequantized_by(node.input[1]) is not None:
            assert reads is not None
    metadata = OnnxSession(file, file).metadata
    assert QuantizationSpec.from_dict(json.loads(metadata["quantization"])) == spec


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("tensorrt", {"dynamic_size": True, "preprocess": True, "raw_levels": True}),
        ("onnxruntime", {"dynamic_size": True, "preprocess": True, "raw_levels": True}),
        ("tensorrt", {"end2end": "onnxruntime", "conf_threshold": 0.005, "half": True}),
        ("onnxruntime", {"end2end": "onnxruntime", "conf_threshold": 0.005, "simplify": True, "batch_size": 2}),
    ],
)
def test_every_other_option(
    target: Any,
    options: dict[str, Any],
    random_weights: Make,
    tiny: dict[str, float],
    quantized: Make,
    tmp_path: Path,
) -> None:
    if "simplify" in options:
        pytest.importorskip("onnxslim")
    weights = quantized(random_weights(**tiny), QuantizationSpec(method="max", target=target))
    file = tmp_path / "model.onnx"
    done = export_model(weights, file, ExportSettings(image_size=(64, 96), **options))
    assert done.agreement.detections is None or done.agreement.detections > 0
    graph = Graph(file)
    source = "QuantizeLinear" if target == "tensorrt" else "constant"
    assert graph.weight_types() == {source: len(graph.convolutions)}
    session = OnnxSession(file, file)
    if "simplify" in options:
        assert integer_share(file, tmp_path) >= 0.85
    if "half" in options:
        assert session.input_type == torch.float16
    if "dynamic_size" in options:
        levels = session(torch.zeros(2, 3, 96, 32, dtype=torch.uint8))
        assert [level.shape[2:] for level in levels] == [(12, 4), (6, 2), (3, 1)]
