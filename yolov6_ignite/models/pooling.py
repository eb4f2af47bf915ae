"""Spatial pyramid pooling at the end of the backbone (specification, models 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov6_ignite.models.blocks import Block

__all__ = ["CSPSPPF", "SPPF"]

KERNEL_SIZE = 5


class SPPFModule(nn.Module):
    """Three chained max pools, which see 5x5, 9x9 and 13x13 pixels, between two 1x1 units."""

    def __init__(self, in_channels: int, out_channels: int, unit: Block) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = unit(in_channels, hidden, 1)
        self.cv2 = unit(4 * hidden, out_channels, 1)
        self.m = nn.MaxPool2d(KERNEL_SIZE, stride=1, padding=KERNEL_SIZE // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(pooled_pyramid(self.cv1(x), self.m))


class CSPSPPFModule(nn.Module):
    """The pyramid on one half of the channels, a bypass for the other."""

    def __init__(self, in_channels: int, out_channels: int, unit: Block) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.cv1 = unit(in_channels, hidden, 1)
        self.cv2 = unit(in_channels, hidden, 1)
        self.cv3 = unit(hidden, hidden, 3)
        self.cv4 = unit(hidden, hidden, 1)
        self.m = nn.MaxPool2d(KERNEL_SIZE, stride=1, padding=KERNEL_SIZE // 2)
        self.cv5 = unit(4 * hidden, hidden, 1)
        self.cv6 = unit(hidden, hidden, 3)
        self.cv7 = unit(2 * hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pyramid = pooled_pyramid(self.cv4(self.cv3(self.cv1(x))), self.m)
        return self.cv7(torch.cat((self.cv2(x), self.cv6(self.cv5(pyramid))), dim=1))


class SPPF(nn.Module):
    """Pyramid pooling; `unit` is ConvBNReLU or ConvBNSiLU."""

    def __init__(self, in_channels: int, out_channels: int, unit: Block) -> None:
        super().__init__()
        self.sppf = SPPFModule(in_channels, out_channels, unit)

    def forward(self, x: Tensor) -> Tensor:
        return self.sppf(x)


class CSPSPPF(nn.Module):
    """Pyramid pooling with a bypass; `unit` is ConvBNReLU or ConvBNSiLU."""

    def __init__(self, in_channels: int, out_channels: int, unit: Block) -> None:
        super().__init__()
        self.cspsppf = CSPSPPFModule(in_channels, out_channels, unit)

    def forward(self, x: Tensor) -> Tensor:
        return self.cspsppf(x)


def pooled_pyramid(x: Tensor, pool: nn.Module) -> Tensor:
    """`x` (batch, channels, height, width) and its three successive poolings, joined: four times the channels."""
    once = pool(x)
    twice = pool(once)
    return torch.cat((x, once, twice, pool(twice)), dim=1)
