"""The stages that backbones and necks are made of (specification, models 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU, Transpose
from yolov6_ignite.models.repvgg import RepVGGBlock

__all__ = ["BiFusion", "Block", "RepBlock", "Stage", "basic_block"]

Block = Callable[..., nn.Module]
"""A 3x3 unit: `block(in_channels, out_channels)`, or with `stride=2` to halve the size."""

Stage = Callable[[int, int, int], nn.Module]
"""Several blocks of equal size: `stage(in_channels, out_channels, repeats)`."""


def basic_block(training_mode: str) -> type[nn.Module]:
    """The 3x3 unit that `model.training_mode` names.

    Raises:
        KeyError: for a name that the configuration does not allow.
    """
    blocks: dict[str, type[nn.Module]] = {
        "repvgg": RepVGGBlock,
        "conv_relu": ConvBNReLU,
        "conv_silu": ConvBNSiLU,
    }
    return blocks[training_mode]


class RepBlock(nn.Module):
    """`repeats` blocks in a row; the first changes the number of channels."""

    def __init__(self, in_channels: int, out_channels: int, repeats: int, block: Block) -> None:
        super().__init__()
        self.conv1 = block(in_channels, out_channels)
        self.block = (
            nn.Sequential(*(block(out_channels, out_channels) for _ in range(repeats - 1))) if repeats > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x if self.block is None else self.block(x)


class BiFusion(nn.Module):
    """Joins three neighbouring levels at the resolution of the middle one.

    Args:
        in_channels: channels of the middle and of the fine map; the coarse map has `out_channels` already.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        middle, fine = in_channels
        self.cv1 = ConvBNReLU(middle, out_channels, 1)
        self.cv2 = ConvBNReLU(fine, out_channels, 1)
        self.cv3 = ConvBNReLU(3 * out_channels, out_channels, 1)
        self.upsample = Transpose(out_channels, out_channels)
        self.downsample = ConvBNReLU(out_channels, out_channels, 3, stride=2)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        maps = (self.upsample(coarse), self.cv1(middle), self.downsample(self.cv2(fine)))
        return self.cv3(torch.cat(maps, dim=1))
