"""The blocks of RepOptimizer: branches with learned scales to search with, one plain convolution to train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvModule, batch_norm
from yolov6_ignite.models.deploy import fused_conv, scale_and_shift
from yolov6_ignite.models.repvgg import MultiBranchBlock, identity_kernel, split_stride

__all__ = ["LinearAddBlock", "RealVGGBlock", "ScaleLayer"]


class ScaleLayer(nn.Module):
    """Multiplies every channel with its own learned number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype).reshape(1, -1, 1, 1)  # its own type would widen half precision


class LinearAddBlock(MultiBranchBlock):
    """A 3x3 convolution, a 1x1 convolution and the identity, each scaled by channel; one batch norm after the sum.

    The hyper-search stage of "Re-parameterizing Your Optimizers rather than Architectures"
    (https://arxiv.org/abs/2205.15242); specification, models 3.3 and 12.
    """

    scale_identity: ScaleLayer | None

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.scale_conv = ScaleLayer(out_channels)
        self._step, pointwise_stride = split_stride(in_channels, stride)
        self.conv_1x1 = nn.Conv2d(in_channels, out_channels, 1, pointwise_stride, bias=False)
        self.scale_1x1 = ScaleLayer(out_channels)
        self.scale_identity = ScaleLayer(out_channels) if in_channels == out_channels and stride == 1 else None
        self.bn = batch_norm(out_channels)

    def branches(self, x: Tensor) -> Tensor:
        out = self.scale_conv(self.conv(x))
        out += self.scale_1x1(self.conv_1x1(x if self._step == 1 else x[..., :: self._step, :: self._step]))
        if self.scale_identity is not None:
            out += self.scale_identity(x)
        return self.bn(out)

    def merged(self) -> nn.Conv2d:
        scale, shift = scale_and_shift(self.bn)

        def by_output(layer: ScaleLayer) -> Tensor:
            return layer.weight.detach().to(scale).reshape(-1, 1, 1, 1)

        kernel = self.conv.weight.detach().to(scale) * by_output(self.scale_conv)
        pointwise = self.conv_1x1.weight.detach().to(scale) * by_output(self.scale_1x1)
        kernel = kernel + F.pad(pointwise, (1, 1, 1, 1))
        if self.scale_identity is not None:
            kernel = kernel + identity_kernel(by_output(self.scale_identity).flatten())
        return fused_conv(self.conv, kernel * scale.reshape(-1, 1, 1, 1), shift)


class RealVGGBlock(ConvModule):
    """3x3 convolution, batch norm, ReLU: what RepOptimizer trains as if it had branches (specification, models 12)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, nn.ReLU(inplace=True))
