"""Anchor points of a batch's size, made once and kept."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from yolov6_ignite.models.anchors import anchor_points
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["AnchorGrid"]


class AnchorGrid:
    """Anchor points and strides of the predictions; kept, since most batches have the size of the one before.

    Args:
        strides: stride of every level in pixels, the finest first.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        self.strides = tuple(strides)
        self._last: tuple[object, tuple[Tensor, Tensor]] | None = None

    def __call__(self, output: DetectorOutput, anchors_per_cell: int = 1) -> tuple[Tensor, Tensor]:
        """Points (n A, 2) and strides (n A, 1) in pixels, where n anchors a cell are anchor-major inside a level."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in output.feature_maps]
        key = (sizes, anchors_per_cell, output.logits.device)
        if self._last is None or self._last[0] != key:
            repeated = [size for size in sizes for _ in range(anchors_per_cell)]
            strides = [stride for stride in self.strides for _ in range(anchors_per_cell)]
            self._last = key, anchor_points(repeated, strides, output.logits.device)
        return self._last[1]
