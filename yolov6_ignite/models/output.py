"""What a detector returns in train mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["DetectorOutput"]


class DetectorOutput(NamedTuple):
    """Raw predictions; A is the number of anchor points over all levels, the finest level first, row by row.

    Attributes:
        feature_maps: the head's stem outputs, one a level, (batch, channels, height, width). Losses use their
            sizes only.
        logits: (batch, A, classes), before the sigmoid.
        distances: (batch, A, 4) to the left, top, right and bottom side in strides; or, with distribution
            focal loss, (batch, A, 4 x (reg_max + 1)) logits over bins, side-major.
        anchor_logits: (batch, 3A, classes) of the anchor-aided branch, or None.
        anchor_boxes: (batch, 3A, 4) of the anchor-aided branch: raw centre offset and size in strides; or None.
        ltrb: (batch, A, 4) direct distances beside the distribution, or None.
        neck_maps: the neck's outputs, one a level, (batch, channels, height, width).
    """

    feature_maps: tuple[Tensor, ...]
    logits: Tensor
    distances: Tensor
    anchor_logits: Tensor | None = None
    anchor_boxes: Tensor | None = None
    ltrb: Tensor | None = None
    neck_maps: tuple[Tensor, ...] | None = None
