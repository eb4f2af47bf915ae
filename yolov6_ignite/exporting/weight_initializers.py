"""Quantised weights as the integers that they are: a quarter of the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["store_integer_weights"]


def store_integer_weights(model: ModelProto) -> None:
    """Replaces every QuantizeLinear of a constant by its result, in place; what the model computes stays to the bit.

    Args:
        model: of any target; its DequantizeLinear nodes stay.
    """
    import onnx

    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    kept, replaced = [], set()
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            kept.append(node)
            continue
        weight, scale, zero_point = (onnx.numpy_helper.to_array(constants[name]) for name in node.input)
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        integers = _quantized(weight, scale, zero_point, axis)
        graph.initializer.append(onnx.numpy_helper.from_array(integers, node.output[0]))
        replaced.add(node.input[0])
    del graph.node[:]
    graph.node.extend(kept)
    replaced -= {name for node in kept for name in node.input}
    constants_left = [item for item in graph.initializer if item.name not in replaced]
    del graph.initializer[:]
    graph.initializer.extend(constants_left)


def _quantized(weight: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int) -> NDArray[Any]:
    """Rounded to whole numbers, halves to even ones, as ONNX defines it."""
    if scale.ndim:
        shape = [1] * weight.ndim
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    limits = np.iinfo(zero_point.dtype)
    whole = np.rint(weight / scale) + zero_point.astype(weight.dtype)
    return np.clip(whole, limits.min, limits.max).astype(zero_point.dtype)
