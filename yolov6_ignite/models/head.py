"""The decoupled head: anchor-free, with the branches that training modes add to it (specification, models 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.models.anchors import anchor_points, distribution_to_distances
from yolov6_ignite.models.deploy import Fusable
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["EffiDeHead"]

PRIOR_PROBABILITY = 0.01  # class probability that a fresh head predicts everywhere
PROJECTION_BINS = 17  # entries of `proj` in the published weights, whatever reg_max is


class EffiDeHead(Fusable):
    """One stem, one class branch and one box branch a level.

    Args:
        channels: channels of each level's map, the finest first.
        strides: stride of each level in pixels.
        num_classes: number of classes.
        reg_max: last bin of the distance distribution; 0 predicts distances directly.
        stem: makes the unit that a level begins with, from its channels.
        conv: makes the unit before each predictor.
        projection: hold the constants `proj` and `proj_conv`, as all published weights but the Lite ones do.
        anchors: (width, height) in pixels of every anchor, a list a level: adds the anchor-aided branch, which is
            there for training only.
        distances_beside: predict distances directly as well, and use only them outside training: the distribution
            is there to be distilled (`distill_ns`).
    """

    anchors: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        reg_max: int,
        *,
        stem: Callable[[int], nn.Module],
        conv: Callable[[int], nn.Module],
        projection: bool = True,
        anchors: Sequence[Sequence[tuple[float, float]]] | None = None,
        distances_beside: bool = False,
    ) -> None:
        super().__init__()
        self.channels = list(channels)
        self.strides = list(strides)
        self.reg_max = reg_max
        if projection:  # constants that only stand in the state dict
            bins = torch.linspace(0, PROJECTION_BINS - 1, PROJECTION_BINS)
            self.proj = nn.Parameter(bins, requires_grad=False)
            self.proj_conv = nn.Conv2d(PROJECTION_BINS, 1, 1, bias=False)
            self.proj_conv.weight = nn.Parameter(bins.reshape(1, -1, 1, 1).clone(), requires_grad=False)

        self.stems = nn.ModuleList(stem(c) for c in channels)
        self.cls_convs = nn.ModuleList(conv(c) for c in channels)
        self.reg_convs = nn.ModuleList(conv(c) for c in channels)
        self.cls_preds = _class_predictors(channels, num_classes)
        self.reg_preds_dist: nn.ModuleList | None = None
        if distances_beside:
            self.reg_preds_dist = _box_predictors(channels, 4 * (reg_max + 1))
        self.reg_preds = _box_predictors(channels, 4 if distances_beside else 4 * (reg_max + 1))
        self.cls_preds_ab: nn.ModuleList | None = None
        self.reg_preds_ab: nn.ModuleList | None = None
        if anchors is not None:
            in_strides = torch.tensor(anchors).reshape(len(channels), -1, 2) / torch.tensor(strides).reshape(-1, 1, 1)
            self.register_buffer("anchors", in_strides, persistent=False)
            self.cls_preds_ab = _class_predictors(channels, num_classes * in_strides.shape[1])
            self.reg_preds_ab = _box_predictors(channels, 4 * in_strides.shape[1])
        self._direct = distances_beside or reg_max == 0  # distances need no expectation outside training

    def forward(self, maps: Sequence[Tensor]) -> DetectorOutput | Tensor:
        """Predicts from the neck's maps: raw in train mode, decoded (see :meth:`decode`) in eval mode."""
        output, class_features, box_features = self._detection_branches(maps)
        if not self.training:
            return self._decode_output(output)
        if self.reg_preds_dist is not None:
            distances = _predict(self.reg_preds_dist, box_features)
            output = output._replace(distances=distances, ltrb=output.distances)
        if self.cls_preds_ab is not None and self.reg_preds_ab is not None:
            anchors = self.anchors.shape[1]
            anchor_boxes = self._scale_anchors(_predict(self.reg_preds_ab, box_features, anchors), output.feature_maps)
            anchor_logits = _predict(self.cls_preds_ab, class_features, anchors)
            output = output._replace(anchor_logits=anchor_logits, anchor_boxes=anchor_boxes)
        return output

    def detect_with_output(self, maps: Sequence[Tensor]) -> tuple[Tensor, DetectorOutput]:
        """What :meth:`forward` returns in eval mode, and the raw predictions that it was decoded from."""
        output, _, _ = self._detection_branches(maps)
        return self._decode_output(output), output

    def decode(self, sizes: Sequence[tuple[int, int]], logits: Tensor, distances: Tensor) -> Tensor:
        """Boxes and class probabilities in float32 at least, also under autocast and from half weights.

        Args:
            sizes: (height, width) of every level, in cells.
            logits: (batch, A, classes).
            distances: (batch, A, 4) or (batch, A, 4 x (reg_max + 1)), as in :class:`DetectorOutput`.

        Returns:
            (batch, A, 5 + classes): centre x, centre y, width, height in pixels, 1, class probabilities.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scores = logits.to(dtype).sigmoid()
        distances = distances.to(dtype)
        if not self._direct:
            distances = distribution_to_distances(distances)
        points, stride = anchor_points(sizes, self.strides, scores.device, dtype)
        left_top, right_bottom = (distances * stride).chunk(2, dim=-1)
        centres = points + (right_bottom - left_top) / 2
        return torch.cat((centres, left_top + right_bottom, torch.ones_like(scores[..., :1]), scores), dim=-1)

    def fuse(self) -> None:
        """Drops what only training uses."""
        self.reg_preds_dist = self.cls_preds_ab = self.reg_preds_ab = None

    def _detection_branches(self, maps: Sequence[Tensor]) -> tuple[DetectorOutput, list[Tensor], list[Tensor]]:
        """Raw predictions of the branches that detection uses, and every level's class and box features."""
        stems = tuple(stem(x) for stem, x in zip(self.stems, maps, strict=True))
        class_features = [conv(x) for conv, x in zip(self.cls_convs, stems, strict=True)]
        box_features = [conv(x) for conv, x in zip(self.reg_convs, stems, strict=True)]
        logits, distances = _predict(self.cls_preds, class_features), _predict(self.reg_preds, box_features)
        return DetectorOutput(stems, logits, distances), class_features, box_features

    def _decode_output(self, output: DetectorOutput) -> Tensor:
        sizes = [(x.shape[-2], x.shape[-1]) for x in output.feature_maps]
        return self.decode(sizes, output.logits, output.distances)

    def _scale_anchors(self, raw: Tensor, stems: Sequence[Tensor]) -> Tensor:
        """Centre offsets as they are, sizes in strides: (2 sigmoid)^2 times the anchor, as in specification, 6.5."""
        cells = [x.shape[-2] * x.shape[-1] for x in stems]
        # Anchor-major inside a level, as the predictions are.
        anchors = torch.cat([a.repeat_interleave(n, dim=0) for a, n in zip(self.anchors, cells, strict=True)])
        return torch.cat((raw[..., :2], (2 * raw[..., 2:].sigmoid()).square() * anchors), dim=-1)


def _class_predictors(channels: Sequence[int], outputs: int) -> nn.ModuleList:
    prior_logit = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
    return nn.ModuleList(_predictor(c, outputs, bias=prior_logit) for c in channels)


def _box_predictors(channels: Sequence[int], outputs: int) -> nn.ModuleList:
    return nn.ModuleList(_predictor(c, outputs, bias=1.0) for c in channels)


def _predictor(in_channels: int, out_channels: int, *, bias: float) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


def _predict(predictors: nn.ModuleList, features: Sequence[Tensor], anchors: int = 1) -> Tensor:
    """(batch, A, values); with several anchors a cell, all cells of a level's first anchor come first."""
    levels = [predictor(x) for predictor, x in zip(predictors, features, strict=True)]
    return torch.cat([x.unflatten(1, (anchors, -1)).flatten(3).transpose(2, 3).flatten(1, 2) for x in levels], dim=1)
