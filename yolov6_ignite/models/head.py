"""The decoupled, anchor-free head (specification, models 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.models.anchors import anchor_points, distribution_to_distances
from yolov6_ignite.models.conv import ConvBNSiLU
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["EffiDeHead"]

PRIOR_PROBABILITY = 0.01  # class probability that a fresh head predicts everywhere
PROJECTION_BINS = 17  # entries of `proj` in the published weights, whatever reg_max is


class EffiDeHead(nn.Module):
    """One stem, one class branch and one box branch a level.

    Args:
        channels: channels of each level's map, the finest first.
        strides: stride of each level in pixels.
        num_classes: number of classes.
        reg_max: last bin of the distance distribution; 0 predicts distances directly.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, reg_max: int) -> None:
        super().__init__()
        self.strides = list(strides)
        self.reg_max = reg_max
        # Constants that only stand in the state dict, as in the published weights.
        bins = torch.linspace(0, PROJECTION_BINS - 1, PROJECTION_BINS)
        self.proj = nn.Parameter(bins, requires_grad=False)
        self.proj_conv = nn.Conv2d(PROJECTION_BINS, 1, 1, bias=False)
        self.proj_conv.weight = nn.Parameter(bins.reshape(1, -1, 1, 1).clone(), requires_grad=False)

        self.stems = nn.ModuleList(ConvBNSiLU(c, c, 1) for c in channels)
        self.cls_convs = nn.ModuleList(ConvBNSiLU(c, c, 3) for c in channels)
        self.reg_convs = nn.ModuleList(ConvBNSiLU(c, c, 3) for c in channels)
        prior_logit = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        self.cls_preds = nn.ModuleList(_predictor(c, num_classes, bias=prior_logit) for c in channels)
        self.reg_preds = nn.ModuleList(_predictor(c, 4 * (reg_max + 1), bias=1.0) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> DetectorOutput | Tensor:
        """Predicts from the neck's maps: raw in train mode, decoded (see :meth:`decode`) in eval mode."""
        features, logits, distances = [], [], []
        for level, x in enumerate(maps):
            x = self.stems[level](x)
            features.append(x)
            logits.append(self.cls_preds[level](self.cls_convs[level](x)))
            distances.append(self.reg_preds[level](self.reg_convs[level](x)))
        output = DetectorOutput(tuple(features), _flatten_levels(logits), _flatten_levels(distances))
        return output if self.training else self.decode(output)

    def decode(self, output: DetectorOutput) -> Tensor:
        """Boxes and class probabilities in float32 at least, also under autocast and from half weights.

        Returns:
            (batch, A, 5 + classes): centre x, centre y, width, height in pixels, 1, class probabilities.
        """
        dtype = torch.promote_types(output.logits.dtype, torch.float32)
        scores = output.logits.to(dtype).sigmoid()
        distances = output.distances.to(dtype)
        if self.reg_max:
            distances = distribution_to_distances(distances)
        sizes = [(x.shape[-2], x.shape[-1]) for x in output.feature_maps]
        points, stride = anchor_points(sizes, self.strides, scores.device, dtype)
        left_top, right_bottom = (distances * stride).chunk(2, dim=-1)
        centres = points + (right_bottom - left_top) / 2
        return torch.cat((centres, left_top + right_bottom, torch.ones_like(scores[..., :1]), scores), dim=-1)


def _predictor(in_channels: int, out_channels: int, *, bias: float) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


def _flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """(batch, values, height, width) a level to (batch, A, values)."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
