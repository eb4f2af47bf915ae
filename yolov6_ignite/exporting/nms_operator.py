"""Non-maximum suppression as one operator, which the ONNX exporter replaces by ``NonMaxSuppression``.

The standard operator lists what it keeps, as many rows as there are. Here it ends as scores of a fixed shape, so that
nothing that follows in the graph depends on the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["surviving_scores", "translations"]


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
