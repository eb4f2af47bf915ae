"""What backbones and necks are made of: the basic blocks and the plain stage (specification, models 3.3, 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU, Transpose
from yolov6_ignite.models.linear_add import LinearAddBlock, RealVGGBlock
from yolov6_ignite.models.repvgg import QARepVGGBlock, QARepVGGBlockV2, RepVGGBlock

__all__ = ["BASIC_BLOCKS", "BiFusion", "Block", "RepBlock", "Stage", "unit_of"]

Block = Callable[..., nn.Module]
"""A 3x3 unit: `block(in_channels, out_channels)`, or with `stride=2` to halve the size."""

Stage = Callable[[int, int, int], nn.Module]
"""Several blocks of equal size: `stage(in_channels, out_channels, repeats)`."""

BASIC_BLOCKS: dict[str, type[nn.Module]] = {
    "repvgg": RepVGGBlock,
    "qarepvgg": QARepVGGBlock,
    "qarepvggv2": QARepVGGBlockV2,
    "hyper_search": LinearAddBlock,
    "repopt": RealVGGBlock,
    "conv_relu": ConvBNReLU,
    "conv_silu": ConvBNSiLU,
}
"""The 3x3 unit of every `model.training_mode`."""


def unit_of(block: Block) -> type[ConvBNReLU | ConvBNSiLU]:
    """The convolution unit that goes with a basic block: with SiLU beside SiLU blocks, with ReLU otherwise."""
    return ConvBNSiLU if block is ConvBNSiLU else ConvBNReLU


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
