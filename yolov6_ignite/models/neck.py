"""Necks: mix the levels of the backbone top-down and bottom-up (specification, models 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.blocks import BiFusion, Stage
from yolov6_ignite.models.conv import ConvBNHS, ConvBNReLU, Transpose
from yolov6_ignite.models.lite import CSPBlock, DPBlock

__all__ = ["LiteNeck", "PathAggregationNeck"]


class PathAggregationNeck(nn.Module):
    """Steps down from the coarsest level, then steps up again. Its 1x1 and strided units always use ReLU.

    With n levels there are n - 1 steps down and n - 1 steps up; layer names count as the published weights do. A
    step down joins the coarse map with the backbone's next one (PAN), or with the next two (BiFPAN: bi-directional
    fusion, for which the backbone gives one more, finer map).

    Args:
        in_channels: channels of the backbone's maps, the finest first: n of them, or n + 1 for BiFPAN.
        reduce_channels: channels after the reduction of each step down, from the coarsest level.
        down_channels: channels after the halving of each step up, from the finest level.
        out_channels: channels of the stage of each step up.
        repeats: blocks in the 2 (n - 1) stages, in the order of the steps.
        stage: what every step ends with.
        bifusion: BiFPAN instead of PAN.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        reduce_channels: Sequence[int],
        down_channels: Sequence[int],
        out_channels: Sequence[int],
        repeats: Sequence[int],
        stage: Stage,
        bifusion: bool,
    ) -> None:
        super().__init__()
        self.steps = steps = len(reduce_channels)
        self._bifusion = bifusion
        levels = steps + 1
        layers: dict[str, nn.Module] = {}
        current = in_channels[-1]
        for step, reduced in enumerate(reduce_channels):
            middle = in_channels[-2 - step]
            layers[f"reduce_layer{step}"] = ConvBNReLU(current, reduced, 1)
            if bifusion:
                layers[f"Bifusion{step}"] = BiFusion((middle, in_channels[-3 - step]), reduced)
                joined = reduced
            else:
                layers[f"upsample{step}"] = Transpose(reduced, reduced)
                joined = reduced + middle
            layers[f"Rep_p{levels + 1 - step}"] = stage(joined, reduced, repeats[step])
            current = reduced
        for step, (down, out) in enumerate(zip(down_channels, out_channels, strict=True)):
            skip = reduce_channels[-1 - step]
            layers[f"downsample{2 - step}"] = ConvBNReLU(current, down, 3, stride=2)
            layers[f"Rep_n{levels + step}"] = stage(skip + down, out, repeats[steps + step])
            current = out
        names = list(layers)
        if not bifusion and steps == 2:
            names.sort(key=lambda name: not name.startswith("Rep_"))  # as the published weights of this neck are
        for name in names:
            self.add_module(name, layers[name])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps the backbone's maps to n maps of the n coarser sizes, the finest first."""
        levels = self.steps + 1
        x = maps[-1]
        reduced = []
        for step in range(self.steps):
            coarse = getattr(self, f"reduce_layer{step}")(x)
            reduced.append(coarse)
            if self._bifusion:
                x = getattr(self, f"Bifusion{step}")(coarse, maps[-2 - step], maps[-3 - step])
            else:
                x = torch.cat((getattr(self, f"upsample{step}")(coarse), maps[-2 - step]), dim=1)
            x = getattr(self, f"Rep_p{levels + 1 - step}")(x)
        outputs = [x]
        for step in range(self.steps):
            x = getattr(self, f"downsample{2 - step}")(x)
            x = getattr(self, f"Rep_n{levels + step}")(torch.cat((x, reduced[-1 - step]), dim=1))
            outputs.append(x)
        return outputs


class LiteNeck(nn.Module):
    """PAN with nearest-neighbour upsampling and depthwise halvings, and a fourth level of stride 64.

    Args:
        in_channels: channels of the backbone's three maps, the finest first.
        channels: of every map inside and at the end.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        p3, p4, p5 = in_channels
        self.reduce_layer0 = ConvBNHS(p5, channels, 1)
        self.reduce_layer1 = ConvBNHS(p4, channels, 1)
        self.reduce_layer2 = ConvBNHS(p3, channels, 1)
        self.Csp_p4 = CSPBlock(2 * channels, channels)
        self.Csp_p3 = CSPBlock(2 * channels, channels)
        self.Csp_n3 = CSPBlock(2 * channels, channels)
        self.Csp_n4 = CSPBlock(2 * channels, channels)
        self.downsample2 = DPBlock(channels, stride=2)
        self.downsample1 = DPBlock(channels, stride=2)
        self.p6_conv_1 = DPBlock(channels, stride=2)
        self.p6_conv_2 = DPBlock(channels, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps the backbone's three maps to four of strides 8, 16, 32 and 64."""
        p3, p4, p5 = maps
        coarse = self.reduce_layer0(p5)
        middle = self.Csp_p4(torch.cat((_doubled(coarse), self.reduce_layer1(p4)), dim=1))
        first = self.Csp_p3(torch.cat((_doubled(middle), self.reduce_layer2(p3)), dim=1))
        second = self.Csp_n3(torch.cat((self.downsample2(first), middle), dim=1))
        third = self.Csp_n4(torch.cat((self.downsample1(second), coarse), dim=1))
        return [first, second, third, self.p6_conv_1(coarse) + self.p6_conv_2(third)]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
