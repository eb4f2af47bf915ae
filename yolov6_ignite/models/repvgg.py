"""RepVGG: three parallel branches in training, one 3x3 convolution when deployed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvModule, batch_norm
from yolov6_ignite.models.deploy import Fusable, fold_batch_norm, fused_conv, scale_and_shift

__all__ = ["RepVGGBlock"]


class RepVGGBlock(Fusable):
    """ReLU of the sum of a 3x3 convolution, a 1x1 convolution and, where shapes allow it, the identity.

    Every branch ends in its own batch norm. "RepVGG: Making VGG-style ConvNets Great Again"
    (https://arxiv.org/abs/2101.03697); specification, models 3.3 and 9.2.
    """

    rbr_identity: nn.BatchNorm2d | None
    rbr_reparam: nn.Conv2d | None

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.rbr_identity = batch_norm(in_channels) if in_channels == out_channels and stride == 1 else None
        self.rbr_dense = ConvModule(in_channels, out_channels, 3, stride)
        # With few channels the 1x1 branch takes every stride-th pixel itself: on the CPU, torch 2.13's
        # strided channels-last 1x1 convolution of fewer than 16 channels writes out of bounds.
        self._subsample = stride if in_channels < 16 else 1
        self.rbr_1x1 = ConvModule(in_channels, out_channels, 1, stride // self._subsample)
        self.rbr_reparam = None

    def forward(self, x: Tensor) -> Tensor:
        if self.rbr_reparam is not None:
            return F.relu_(self.rbr_reparam(x))
        # Sums in place: no branch's gradient needs its own output.
        out = self.rbr_dense(x)
        out += self.rbr_1x1(x if self._subsample == 1 else x[..., :: self._subsample, :: self._subsample])
        if self.rbr_identity is not None:
            out += self.rbr_identity(x)
        return F.relu_(out)

    def fuse(self) -> None:
        if self.rbr_reparam is not None:
            return
        kernel, bias = self._merged_branches()
        self.rbr_reparam = fused_conv(self.rbr_dense.conv, kernel, bias)
        del self.rbr_dense, self.rbr_1x1
        self.rbr_identity = None

    def _merged_branches(self) -> tuple[Tensor, Tensor]:
        assert self.rbr_dense.bn is not None
        assert self.rbr_1x1.bn is not None
        kernel, bias = fold_batch_norm(self.rbr_dense.conv, self.rbr_dense.bn)
        kernel_1x1, bias_1x1 = fold_batch_norm(self.rbr_1x1.conv, self.rbr_1x1.bn)
        centre = kernel[..., 1, 1]  # a view: what is added to it lands in the kernel
        centre += kernel_1x1[..., 0, 0]
        bias = bias + bias_1x1
        if self.rbr_identity is not None:
            scale, shift = scale_and_shift(self.rbr_identity)
            centre += torch.diag(scale)
            bias = bias + shift
        return kernel, bias
