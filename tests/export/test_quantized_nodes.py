"""Pairs of QuantizeLinear and DequantizeLinear: merged, added, and the numbers unchanged."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from yolov6_ignite.exporting.quantized_nodes import merge_quantizers
from yolov6_ignite.exporting.weight_initializers import store_integer_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g (float[1,2,6,6] x) => (float[a,b,c,d] y)'
TWICE = """
<float s = {0.01}, float s2 = {0.01}, float t = {0.02}, uint8 z = {128}, uint8 z2 = {128}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  q2 = QuantizeLinear (d, s2, z2)
  d2 = DequantizeLinear (q2, s2, z2)
  q3 = QuantizeLinear (x, s2, z)
  d3 = DequantizeLinear (q3, s, z2)
  joined = Concat <axis = 1> (d, d2, d3)
  q4 = QuantizeLinear (joined, t, z)
  y = DequantizeLinear (q4, t, z)
}"""
MOVES = """
<float s = {0.01}, float t = {0.02}, uint8 z = {128}, float[4] sizes = {1, 1, 2, 2}, float[0] none = {}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  pooled = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d)
  again = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pooled)
  joined = Concat <axis = 1> (d, pooled, again)
  larger = Resize <mode = "nearest"> (joined, , sizes)
  qt = QuantizeLinear (larger, t, z)
  other = DequantizeLinear (qt, t, z)
  mixed = Concat <axis = 1> (other, larger)
  y = Relu (mixed)
}"""
SMOOTH = """
<float s = {0.01}, uint8 z = {128}, float[4] sizes = {1, 1, 2, 2}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  y = Resize <mode = "linear"> (d, , sizes)
}"""


def parsed(body: str) -> Any:
    model = onnx.parser.parse_model(HEAD + body)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: Any) -> np.ndarray[Any, Any]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    result: np.ndarray[Any, Any] = session.run(None, {"x": x})[0]
    return result


def kinds(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("body", [TWICE, MOVES, SMOOTH])
@pytest.mark.parametrize("around_moves", [False, True])
def test_numbers_stay(body: str, around_moves: bool) -> None:
    model = parsed(body)
    expected = outputs(model)
    merge_quantizers(model, around_moves=around_moves)
    assert np.array_equal(outputs(model), expected)


def test_one_pair_for_each_value_and_grid() -> None:
    model = parsed(TWICE)
    merge_quantizers(model, around_moves=False)
    assert kinds(model) == {"QuantizeLinear": 2, "DequantizeLinear": 2, "Concat": 1}
    assert sorted(item.name for item in model.graph.initializer) == ["s", "t", "z"]
    (concat,) = (node for node in model.graph.node if node.op_type == "Concat")
    assert list(concat.input) == ["d", "d", "d"]


def test_pairs_around_what_only_moves() -> None:
    model = parsed(MOVES)
    merge_quantizers(model, around_moves=False)
    assert kinds(model)["QuantizeLinear"] == 2
    model = parsed(MOVES)
    merge_quantizers(model, around_moves=True)
    by_output = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("MaxPool", "Resize", "Concat"):
            data = node.input if node.op_type == "Concat" else node.input[:1]
            assert {by_output[name].op_type for name in data} == {"DequantizeLinear"}
    # The last join has two grids, so it is in floating point.
    assert kinds(model)["QuantizeLinear"] == 1 + 4 + 1


def test_interpolation_makes_new_numbers() -> None:
    model = parsed(SMOOTH)
    merge_quantizers(model, around_moves=True)
    assert kinds(model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Resize": 1}


@pytest.mark.parametrize(("op", "axis"), [("Conv", 0), ("ConvTranspose", 1)])
def test_integer_weights_are_those_of_quantize_linear_to_the_bit(op: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    scale = np.array([0.01, 0.02], np.float32)  # the first channels are clipped
    weight.flat[::5] = (np.rint(weight.flat[::5] / 0.01) + 0.5).astype(np.float32) * np.float32(0.01)  # ties
    model = parsed(f"""
    <float[2,2,3,3] w = {{{", ".join(["0"] * 36)}}}, float[2] s = {{0, 0}}, int8[2] z = {{0, 0}}> {{
      q = QuantizeLinear <axis = {axis}> (w, s, z)
      d = DequantizeLinear <axis = {axis}> (q, s, z)
      y = {op} (x, d)
    }}""")
    for name, values in (("w", weight), ("s", scale)):
        (old,) = (item for item in model.graph.initializer if item.name == name)
        old.CopyFrom(onnx.numpy_helper.from_array(values, name))
    expected = outputs(model)
    store_integer_weights(model)
    assert np.array_equal(outputs(model), expected)
    assert kinds(model) == {"DequantizeLinear": 1, op: 1}
    types = {item.name: item.data_type for item in model.graph.initializer}
    assert types == {"q": onnx.TensorProto.INT8, "s": onnx.TensorProto.FLOAT, "z": onnx.TensorProto.INT8}
