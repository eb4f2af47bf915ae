"""Non-maximum suppression as one operator of an ONNX file: ``NonMaxSuppression``, or the plugin of TensorRT.

The standard operator lists what it keeps, as many rows as there are. Here it ends as scores of a fixed shape, so that
nothing that follows in the graph depends on the data. The plugin ``EfficientNMS_TRT`` gives fixed shapes itself; only
TensorRT can run it, so the rest of a file is run without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov6_ignite.exporting.settings import Thresholds

__all__ = ["PLUGIN", "efficient_nms", "plugin_attributes", "split_at_plugin", "surviving_scores", "translations"]

PLUGIN = "EfficientNMS_TRT"


@torch.library.custom_op("yolov6_ignite::surviving_scores", mutates_args=())
def surviving_scores(
    boxes: Tensor, scores: Tensor, conf_threshold: float, iou_threshold: float, max_per_class: int
) -> Tensor:
    """Scores with those of suppressed candidates set to 0; exists in exported graphs only.

    Args:
        boxes: (batch, anchors, 4) x1, y1, x2, y2, with x1 <= x2 and y1 <= y2.
        scores: (batch, anchors, classes), finite.
        conf_threshold: lowest score, exclusive.
        iou_threshold: largest overlap of two detections of a class, inclusive.
        max_per_class: most survivors of a class in an image.

    Returns:
        (batch, anchors, classes).
    """
    raise NotImplementedError("suppression is part of exported graphs; in torch use metrics.non_max_suppression")


@surviving_scores.register_fake
def _shape(boxes: Tensor, scores: Tensor, conf_threshold: float, iou_threshold: float, max_per_class: int) -> Tensor:
    return torch.empty_like(scores)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the ONNX exporter writes the operator; needs onnxscript."""
    import onnxscript

    op: Any = onnxscript.opset18  # its annotations do not know the type of a constant

    def translate(boxes: Any, scores: Any, conf_threshold: float, iou_threshold: float, max_per_class: int) -> Any:
        chosen = op.NonMaxSuppression(  # (survivors, 3): image, class, anchor
            boxes,
            op.Transpose(scores, perm=[0, 2, 1]),
            op.Constant(value_ints=[max_per_class]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[conf_threshold]),
        )
        places = op.Gather(chosen, op.Constant(value_ints=[0, 2, 1]), axis=1)
        nothing = op.Mul(scores, op.Constant(value_float=0.0))
        return op.ScatterND(nothing, places, op.GatherND(scores, places))

    return {torch.ops.yolov6_ignite.surviving_scores.default: translate}


def efficient_nms(boxes: Tensor, scores: Tensor, thresholds: Thresholds) -> tuple[Tensor, ...]:
    """TensorRT's plugin, a node of the domain ``TRT``; suppresses each class by itself. In torch it gives zeros.

    Args:
        boxes: (batch, anchors, 4) x1, y1, x2, y2.
        scores: (batch, anchors, classes), of the same type.
        thresholds: of the node.

    Returns:
        Number of detections (batch, 1) int32, boxes (batch, room, 4) as they came, scores (batch, room), classes
        (batch, room) int32; the best first, with room for ``max_detections``.
    """
    batch, room = boxes.shape[0], thresholds.max_detections
    outputs = torch.onnx.ops.symbolic_multi_out(
        f"TRT::{PLUGIN}",
        (boxes, scores),
        plugin_attributes(thresholds),
        dtypes=(torch.int32, boxes.dtype, scores.dtype, torch.int32),
        shapes=((batch, 1), (batch, room, 4), (batch, room), (batch, room)),
        version=1,
    )
    return tuple(outputs)


def plugin_attributes(thresholds: Thresholds) -> dict[str, Any]:
    """Attributes of the node as they come back from a file, whose numbers are in fp32."""
    return {
        "plugin_version": "1",
        "background_class": -1,  # there is none
        "box_coding": 0,  # corners
        "class_agnostic": 0,
        "iou_threshold": float(np.float32(thresholds.iou)),
        "max_output_boxes": thresholds.max_detections,
        "score_activation": 0,  # scores are probabilities already
        "score_threshold": float(np.float32(thresholds.conf)),
    }


def split_at_plugin(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """A file that ends where the plugin begins, and what the plugin was told.

    Args:
        content: of a file with one such node, which gives the file's outputs.

    Returns:
        The content of a file whose outputs are the node's boxes and scores, and the node's attributes.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    graph = model.graph
    (node,) = [node for node in graph.node if node.op_type == PLUGIN]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
    graph.node.remove(node)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.input)  # their types are inferred
    return bytes(model.SerializeToString()), attributes
