"""QuantizeLinear and DequantizeLinear nodes where a runtime needs them, and no others.

Quantisers of a model know nothing of each other: what one gave, the next one may round to the same grid again. And
where values only move, none stands, but onnxruntime computes in integers only between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["merge_quantizers"]

MOVES = {"Concat", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Transpose"}
"""Give nothing but what they were given; a Resize only with mode `nearest`."""


class _Pair(NamedTuple):
    """What stands on both sides of a tensor of integers."""

    integers: str
    grid: tuple[str, ...]


def merge_quantizers(model: ModelProto, *, around_moves: bool) -> None:
    """Leaves one pair of nodes for each value and grid; all numbers stay.

    Args:
        model: in which nodes stand in the order of computation, changed in place.
        around_moves: add pairs behind nodes that only move what is on a grid.
    """
    graph = model.graph
    _share_constants(graph)
    renamed: dict[str, str] = {}
    merged: dict[tuple[str, ...], str] = {}
    pairs: dict[str, _Pair] = {}  # by the name of what DequantizeLinear gives
    kept: list[NodeProto] = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            value, grid = node.input[0], _grid(node)
            if node.op_type == "QuantizeLinear" and value in pairs and pairs[value].grid == grid:
                renamed[node.output[0]] = pairs[value].integers
                continue
            key = (node.op_type, value, *grid)
            if key in merged:
                renamed[node.output[0]] = merged[key]
                continue
            merged[key] = node.output[0]
            if node.op_type == "DequantizeLinear":
                pairs[node.output[0]] = _Pair(value, grid)
        kept.append(node)
        if around_moves and _moves(node):
            data = _data(node)
            grids = {pairs[name].grid for name in data if name in pairs}
            if len(grids) != 1 or not all(name in pairs for name in data):
                continue
            (grid,) = grids
            for output in node.output:
                for added in _new_pair(output, grid):
                    merged[(added.op_type, added.input[0], *grid)] = added.output[0]
                    kept.append(added)
                renamed[output] = added.output[0]
                pairs[added.output[0]] = _Pair(added.input[0], grid)
    for output in graph.output:
        assert output.name not in renamed, "what a graph gives is not on a grid"
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)


def _grid(node: NodeProto) -> tuple[str, ...]:
    """Names of scale and zero point; the axis too where there is one scale a channel."""
    return (*node.input[1:], *(f"axis {item.i}" for item in node.attribute if item.name == "axis"))


def _moves(node: NodeProto) -> bool:
    if node.op_type == "Resize":
        return any(item.name == "mode" and item.s == b"nearest" for item in node.attribute)
    return node.op_type in MOVES


def _data(node: NodeProto) -> list[str]:
    """What a moving node moves; its other inputs are sizes and places."""
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def _new_pair(value: str, grid: tuple[str, ...]) -> Iterator[NodeProto]:
    import onnx

    integers, again = f"{value}_quantized", f"{value}_dequantized"
    yield onnx.helper.make_node("QuantizeLinear", [value, *grid], [integers], name=f"{integers}_node")
    yield onnx.helper.make_node("DequantizeLinear", [integers, *grid], [again], name=f"{again}_node")


def _share_constants(graph: GraphProto) -> None:
    """Gives equal scales and zero points one name."""
    contents = {item.name: (item.data_type, tuple(item.dims), _bytes(item)) for item in graph.initializer}
    first: dict[object, str] = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            for place in (1, 2):
                name = node.input[place]
                node.input[place] = first.setdefault(contents[name], name)


def _bytes(constant: TensorProto) -> bytes:
    import onnx

    return bytes(onnx.numpy_helper.to_array(constant).tobytes())


def _drop_unused(graph: GraphProto) -> None:
    """Drops nodes and constants that nothing reads, and notes on values that are gone."""
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for things in (graph.initializer, graph.value_info):
        wanted = [thing for thing in things if thing.name in used]
        del things[:]
        things.extend(wanted)
