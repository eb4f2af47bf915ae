"""Backbones: a stem and downsampling stages, from an image to feature maps (specification, models 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from yolov6_ignite.models.blocks import Block, Stage
from yolov6_ignite.models.conv import ConvBNHS
from yolov6_ignite.models.lite import LiteDownsampleUnit, LiteUnit
from yolov6_ignite.models.scaling import round_channels

__all__ = ["EfficientRep", "LiteBackbone"]


class EfficientRep(nn.Module):
    """A stem of stride 2, then one halving and one stage a level, the last with pyramid pooling.

    Args:
        channels: output channels of the stem and of every level from stride 4 on.
        repeats: blocks in the stage of every level from stride 4 on.
        block: the unit of the stem and of the halvings.
        stage: what follows a halving; it decides between the plain and the CSP family.
        pool: the pooling at the end, called with its input and output channels.
        fuse_p2: also return the map of stride 4.
    """

    def __init__(
        self,
        channels: Sequence[int],
        repeats: Sequence[int],
        *,
        block: Block,
        stage: Stage,
        pool: Callable[[int, int], nn.Module],
        fuse_p2: bool,
    ) -> None:
        super().__init__()
        self.stem = block(3, channels[0], stride=2)
        self._levels = [f"ERBlock_{level}" for level in range(2, len(channels) + 1)]
        for name, (previous, current), count in zip(self._levels, pairwise(channels), repeats, strict=True):
            layers = [block(previous, current, stride=2), stage(current, current, count)]
            if name == self._levels[-1]:
                layers.append(pool(current, current))
            self.add_module(name, nn.Sequential(*layers))
        self._first_output = 0 if fuse_p2 else 1

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps a batch of images (batch, 3, height, width) to feature maps, the finest first."""
        x = self.stem(images)
        maps = []
        for name in self._levels:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps[self._first_output :]


class LiteBackbone(nn.Module):
    """A stem of stride 2, then one halving unit and further units a level, with the strides 4 to 32.

    Args:
        channels: output channels of the stem and of every level from stride 4 on.
        repeats: units of every level from stride 4 on, the halving one included.
        hidden_ratio: hidden channels of a unit as a part of its output channels.
    """

    def __init__(self, channels: Sequence[int], repeats: Sequence[int], *, hidden_ratio: float) -> None:
        super().__init__()
        self.conv_0 = ConvBNHS(3, channels[0], 3, stride=2)
        self._levels = [f"lite_effiblock_{level}" for level in range(1, len(channels))]
        for name, (previous, current), count in zip(self._levels, pairwise(channels), repeats, strict=True):
            hidden = round_channels(int(current * hidden_ratio), 8)
            units = (LiteUnit(hidden, current) for _ in range(count - 1))
            self.add_module(name, nn.Sequential(LiteDownsampleUnit(previous, hidden, current), *units))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps a batch of images (batch, 3, height, width) to feature maps of strides 8, 16 and 32."""
        x = self.conv_0(images)
        maps = []
        for name in self._levels:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps[1:]
