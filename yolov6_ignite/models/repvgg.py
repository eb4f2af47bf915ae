"""RepVGG and QARepVGG: parallel branches in training, one 3x3 convolution when deployed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvModule, batch_norm
from yolov6_ignite.models.deploy import Fusable, fold_batch_norm, fused_conv, scale_and_shift

__all__ = ["MultiBranchBlock", "QARepVGGBlock", "QARepVGGBlockV2", "RepVGGBlock", "identity_kernel", "split_stride"]


class MultiBranchBlock(Fusable):
    """ReLU of a sum of branches that together are one 3x3 convolution."""

    rbr_reparam: nn.Conv2d | None

    def __init__(self) -> None:
        super().__init__()
        self.rbr_reparam = None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.branches(x) if self.rbr_reparam is None else self.rbr_reparam(x))

    def fuse(self) -> None:
        if self.rbr_reparam is None:
            merged = self.merged()
            for name in list(self._modules):
                setattr(self, name, None)
            self.rbr_reparam = merged

    def branches(self, x: Tensor) -> Tensor:
        """Their sum, before the ReLU."""
        raise NotImplementedError

    def merged(self) -> nn.Conv2d:
        """The convolution that equals them in eval mode."""
        raise NotImplementedError


class RepVGGBlock(MultiBranchBlock):
    """A 3x3 convolution, a 1x1 convolution and, where shapes allow it, the identity, each with its batch norm.

    "RepVGG: Making VGG-style ConvNets Great Again" (https://arxiv.org/abs/2101.03697); specification, models 3.3
    and 9.2.
    """

    rbr_identity: nn.BatchNorm2d | None

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.rbr_identity = batch_norm(in_channels) if in_channels == out_channels and stride == 1 else None
        self.rbr_dense = ConvModule(in_channels, out_channels, 3, stride)
        self._step, stride = split_stride(in_channels, stride)
        self.rbr_1x1 = ConvModule(in_channels, out_channels, 1, stride)

    def branches(self, x: Tensor) -> Tensor:
        # Sums in place: no branch's gradient needs its own output.
        out = self.rbr_dense(x)
        out += self.rbr_1x1(x if self._step == 1 else x[..., :: self._step, :: self._step])
        if self.rbr_identity is not None:
            out += self.rbr_identity(x)
        return out

    def merged(self) -> nn.Conv2d:
        assert self.rbr_dense.bn is not None
        assert self.rbr_1x1.bn is not None
        kernel, bias = fold_batch_norm(self.rbr_dense.conv, self.rbr_dense.bn)
        pointwise, pointwise_bias = fold_batch_norm(self.rbr_1x1.conv, self.rbr_1x1.bn)
        kernel, bias = kernel + F.pad(pointwise, (1, 1, 1, 1)), bias + pointwise_bias
        if self.rbr_identity is not None:
            scale, shift = scale_and_shift(self.rbr_identity)
            kernel, bias = kernel + identity_kernel(scale), bias + shift
        return fused_conv(self.rbr_dense.conv, kernel, bias)


class QARepVGGBlock(MultiBranchBlock):
    """RepVGG that keeps its range when quantised: bare 1x1 and identity branches, one batch norm after the sum.

    "Make RepVGG Greater Again: A Quantization-aware Approach" (https://arxiv.org/abs/2212.01593); specification,
    models 3.3 and 9.2.
    """

    averages = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self._identity = in_channels == out_channels and stride == 1
        self.rbr_dense = ConvModule(in_channels, out_channels, 3, stride)
        self._step, stride = split_stride(in_channels, stride)
        self.rbr_1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = batch_norm(out_channels)

    def branches(self, x: Tensor) -> Tensor:
        out = self.rbr_dense(x)
        out += self.rbr_1x1(x if self._step == 1 else x[..., :: self._step, :: self._step])
        if self._identity:
            out += x
            if self.averages:
                out += F.avg_pool2d(x, 3, stride=1, padding=1)
        return self.bn(out)

    def merged(self) -> nn.Conv2d:
        assert self.rbr_dense.bn is not None
        kernel, bias = fold_batch_norm(self.rbr_dense.conv, self.rbr_dense.bn)
        kernel = kernel + F.pad(self.rbr_1x1.weight.detach(), (1, 1, 1, 1))
        if self._identity:
            ones = torch.ones(len(kernel), dtype=kernel.dtype, device=kernel.device)
            kernel = kernel + identity_kernel(ones)
            if self.averages:
                kernel = kernel + torch.diag(ones / 9)[..., None, None]
        scale, shift = scale_and_shift(self.bn)
        return fused_conv(self.rbr_dense.conv, kernel * scale.reshape(-1, 1, 1, 1), bias * scale + shift)


class QARepVGGBlockV2(QARepVGGBlock):
    """:class:`QARepVGGBlock` with a 3x3 average of the input beside the identity."""

    averages = True


def identity_kernel(scale: Tensor) -> Tensor:
    """A 3x3 kernel (channels, channels, 3, 3) that multiplies each channel with its entry of `scale` (channels,)."""
    return F.pad(torch.diag(scale)[..., None, None], (1, 1, 1, 1))


def split_stride(in_channels: int, stride: int) -> tuple[int, int]:
    """How a 1x1 convolution strides: the step at which its input is sampled, and its own stride.

    On the CPU, torch 2.13's strided channels-last 1x1 convolution of fewer than 16 channels writes out of bounds;
    with few channels the input is sampled first instead.
    """
    return (stride, 1) if in_channels < 16 else (1, stride)
