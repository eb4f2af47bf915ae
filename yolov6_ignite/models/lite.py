"""The blocks of the Lite models, for phones (specification, models 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvBN, ConvBNHS, batch_norm
from yolov6_ignite.models.deploy import Fusable, fold_batch_norm, fused_conv

__all__ = ["CSPBlock", "DPBlock", "LiteDownsampleUnit", "LiteUnit"]


class SEBlock(nn.Module):
    """Squeeze and excitation: every channel weighted by what the whole image shows.

    "Squeeze-and-Excitation Networks" (https://arxiv.org/abs/1709.01507).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.relu_(self.conv1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.conv2(weights))


class LiteUnit(nn.Module):
    """Works on the second half of the channels, then shuffles them ("ShuffleNet V2", arXiv 1807.11164)."""

    def __init__(self, hidden_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv_pw_1 = ConvBNHS(half, hidden_channels, 1)
        self.conv_dw_1 = ConvBN(hidden_channels, hidden_channels, 3, groups=hidden_channels)
        self.se = SEBlock(hidden_channels)
        self.conv_1 = ConvBNHS(hidden_channels, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        bypass, part = x.chunk(2, dim=1)
        part = self.conv_1(self.se(self.conv_dw_1(self.conv_pw_1(part))))
        return torch.stack((bypass, part), dim=2).flatten(1, 2)  # shuffled: one channel of each in turn


class LiteDownsampleUnit(nn.Module):
    """Halves the size in two branches, then mixes them."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden, half = hidden_channels // 2, out_channels // 2
        self.conv_dw_1 = ConvBN(in_channels, in_channels, 3, stride=2, groups=in_channels)
        self.conv_1 = ConvBNHS(in_channels, half, 1)
        self.conv_pw_2 = ConvBNHS(in_channels, hidden, 1)
        self.conv_dw_2 = ConvBN(hidden, hidden, 3, stride=2, groups=hidden)
        self.se = SEBlock(hidden)
        self.conv_2 = ConvBNHS(hidden, half, 1)
        self.conv_dw_3 = ConvBNHS(out_channels, out_channels, 3, groups=out_channels)
        self.conv_pw_3 = ConvBNHS(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_1(self.conv_dw_1(x))
        second = self.conv_2(self.se(self.conv_dw_2(self.conv_pw_2(x))))
        return self.conv_pw_3(self.conv_dw_3(torch.cat((first, second), dim=1)))


class DPBlock(Fusable):
    """A depthwise and a pointwise convolution, each with bias, batch norm and hard swish."""

    bn_1: nn.BatchNorm2d | None
    bn_2: nn.BatchNorm2d | None

    def __init__(self, channels: int, kernel_size: int = 5, stride: int = 1) -> None:
        super().__init__()
        self.conv_dw_1 = nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels)
        self.bn_1 = batch_norm(channels)
        self.conv_pw_1 = nn.Conv2d(channels, channels, 1)
        self.bn_2 = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_dw_1(x)
        x = F.hardswish(x if self.bn_1 is None else self.bn_1(x))
        x = self.conv_pw_1(x)
        return F.hardswish(x if self.bn_2 is None else self.bn_2(x))

    def fuse(self) -> None:
        if self.bn_1 is not None and self.bn_2 is not None:
            self.conv_dw_1 = fused_conv(self.conv_dw_1, *fold_batch_norm(self.conv_dw_1, self.bn_1))
            self.conv_pw_1 = fused_conv(self.conv_pw_1, *fold_batch_norm(self.conv_pw_1, self.bn_2))
            self.bn_1 = self.bn_2 = None


class DarknetBlock(nn.Module):
    """A pointwise convolution and a :class:`DPBlock`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = ConvBNHS(channels, channels, 1)
        self.conv_2 = DPBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_2(self.conv_1(x))


class CSPBlock(nn.Module):
    """A :class:`DarknetBlock` on one half of the output's channels, a bypass for the other."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv_1 = ConvBNHS(in_channels, hidden, 1)
        self.conv_2 = ConvBNHS(in_channels, hidden, 1)
        self.conv_3 = ConvBNHS(2 * hidden, out_channels, 1)
        self.blocks = DarknetBlock(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_3(torch.cat((self.blocks(self.conv_1(x)), self.conv_2(x)), dim=1))
