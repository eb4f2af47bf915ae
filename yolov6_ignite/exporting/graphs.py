"""The computations that are exported: a deployed detector, with what comes before and after it.

Every graph takes ``images`` and names its outputs. ``predictions`` says which of them, or what made of them, can be
compared with another graph's: boxes in pixels and class probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.exporting.nms_operator import efficient_nms, surviving_scores
from yolov6_ignite.exporting.settings import Thresholds
from yolov6_ignite.metrics.boxes import cxcywh_to_xyxy
from yolov6_ignite.models import Detector
from yolov6_ignite.models.anchors import distribution_to_distances

__all__ = ["DetectionGraph", "EndToEndGraph", "ExportGraph", "RawLevelGraph", "SuppressingGraph", "TensorRTGraph"]


class ExportGraph(nn.Module):
    """The input side that all graphs share.

    Args:
        model: deployed.
        preprocess: take BGR images in uint8, 0 to 255, instead of RGB floats in [0, 1].

    Attributes:
        kind: what the outputs are, for the file's metadata.
        layout: of the outputs, in words, for the same.
        output_names: their names in the file.
    """

    kind = ""
    layout = ""
    output_names: tuple[str, ...] = ()

    def __init__(self, model: Detector, *, preprocess: bool = False) -> None:
        super().__init__()
        self.model = model
        self.preprocess = preprocess

    def model_input(self, images: Tensor) -> Tensor:
        """What the model takes, of images as the file takes them."""
        if not self.preprocess:
            return images
        return images.flip(1).to(next(self.model.parameters()).dtype) / 255

    @property
    def input_dtype(self) -> torch.dtype:
        """Of the images."""
        return torch.uint8 if self.preprocess else next(self.model.parameters()).dtype

    @property
    def input_type(self) -> str:
        """What the images are, in words."""
        return "BGR uint8" if self.preprocess else f"RGB {str(self.input_dtype).removeprefix('torch.')} in [0, 1]"

    def predictions(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (or distances) in pixels and class probabilities, (batch, anchors, 4) and (batch, anchors, classes)."""
        raise NotImplementedError


class DetectionGraph(ExportGraph):
    """What the detector gives in eval mode: ``outputs`` (batch, anchors, 5 + classes)."""

    kind = "predictions"
    layout = (
        "(batch, anchors, 5 + classes): centre x, centre y, width, height in pixels of the input, 1, class "
        "probabilities; not suppressed"
    )
    output_names: tuple[str, ...] = ("outputs",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.model(self.model_input(images))
        assert isinstance(output, Tensor)
        return (output,)

    def predictions(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return outputs[-1][..., :4], outputs[-1][..., 5:]


class SuppressingGraph(DetectionGraph):
    """Detections after non-maximum suppression.

    The outputs have room for ``max_detections``, the best first: ``num_dets`` (batch, 1), ``det_boxes`` (batch, room,
    4) as x1, y1, x2, y2 in pixels, ``det_scores`` and ``det_classes`` (batch, room).

    Args:
        model: deployed.
        thresholds: of the suppression.
        preprocess: as for :class:`ExportGraph`.
    """

    kind = "end2end"
    layout = (
        "num_dets (batch, 1); det_boxes (batch, room, 4): x1, y1, x2, y2 in pixels of the input; det_scores and "
        "det_classes (batch, room); the best first, rows from num_dets on are empty; classes are suppressed separately"
    )
    output_names: tuple[str, ...] = ("num_dets", "det_boxes", "det_scores", "det_classes")

    def __init__(self, model: Detector, thresholds: Thresholds, *, preprocess: bool = False) -> None:
        super().__init__(model, preprocess=preprocess)
        self.thresholds = thresholds


class EndToEndGraph(SuppressingGraph):
    """The detections of :func:`yolov6_ignite.metrics.non_max_suppression`, with ONNX's standard operators.

    Behind them in the outputs is 0, class -1. The last output, ``outputs``, is what was selected from: it is for the
    check and no output of the file.

    There is no limit on the candidates of an image (the library's is 30000, which only thresholds near 0 reach).
    """

    output_names = (*SuppressingGraph.output_names, "outputs")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (output,) = super().forward(images)
        conf, room = self.thresholds.conf, self.thresholds.max_detections
        boxes, scores = cxcywh_to_xyxy(output[..., :4]), output[..., 5:]
        usable = boxes.isfinite().all(-1, keepdim=True) & (scores > conf)
        # Without area a box overlaps none; the operator would swap the corners of one with a negative side.
        upright = torch.cat((boxes[..., :2], torch.maximum(boxes[..., :2], boxes[..., 2:])), dim=-1)
        kept = surviving_scores(upright, torch.where(usable, scores, 0.0), conf, self.thresholds.iou, room)
        best, place = F.pad(kept.flatten(1), (0, room)).topk(room)  # equal ones stay in the order of anchors, classes
        found = best > 0
        classes = scores.shape[-1]
        anchor = torch.where(found, place // classes, 0)
        det_boxes = boxes.gather(1, anchor[..., None].expand(-1, -1, 4)).where(found[..., None], 0.0)
        det_classes = torch.where(found, place % classes, -1)
        return found.sum(1, keepdim=True), det_boxes, best, det_classes, output


class TensorRTGraph(SuppressingGraph):
    """Detections of TensorRT's own suppression, which nothing else can run.

    Numbers and classes are in int32. What can be compared is what goes into it, boxes and scores, which
    :func:`yolov6_ignite.exporting.nms_operator.split_at_plugin` makes outputs.
    """

    kind = "end2end-tensorrt"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (output,) = super().forward(images)
        return efficient_nms(cxcywh_to_xyxy(output[..., :4]), output[..., 5:], self.thresholds)

    def predictions(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, scores = outputs
        corners = boxes.float()
        low, high = corners[..., :2], corners[..., 2:]
        return torch.cat(((low + high) / 2, high - low), dim=-1), scores


class RawLevelGraph(ExportGraph):
    """One map a level, for runtimes that decode themselves: ``stride_8`` (batch, classes + 4, height, width), ...

    Class probabilities, then the distances to the left, top, right and bottom side in strides: those of the
    distribution are its expectation already (specification, models 6.7).
    """

    kind = "raw-levels"
    layout = (
        "(batch, classes + 4, height, width) a level: class probabilities; distances in strides from the middle of the "
        "cell to the left, top, right and bottom side"
    )

    def __init__(self, model: Detector, *, preprocess: bool = False) -> None:
        super().__init__(model, preprocess=preprocess)
        self.output_names = tuple(f"stride_{stride}" for stride in model.strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, head = self.model, self.model.detect
        maps = model.neck(model.backbone(self.model_input(images)))
        levels = []
        for level, features in enumerate(maps):
            stem = head.stems[level](features)
            scores = head.cls_preds[level](head.cls_convs[level](stem)).sigmoid()
            distances = head.reg_preds[level](head.reg_convs[level](stem))
            if distances.shape[1] > 4:
                expected = distribution_to_distances(distances.permute(0, 2, 3, 1))
                distances = expected.permute(0, 3, 1, 2)
            levels.append(torch.cat((scores, distances), dim=1))
        return tuple(levels)

    def predictions(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        rows = [level.flatten(2).transpose(1, 2) for level in outputs]
        distances = [row[..., -4:] * stride for row, stride in zip(rows, self.model.strides, strict=True)]
        return torch.cat(distances, 1), torch.cat([row[..., :-4] for row in rows], 1)
