"""Stages of the larger models: cross-stage partial connections around bottlenecks (specification, models 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov6_ignite.models.blocks import Block, RepBlock, unit_of
from yolov6_ignite.models.conv import ConvModule

__all__ = ["BepC3", "BottleRep", "MBLABlock", "bottlenecks", "branch_depths"]


def bottlenecks(repeats: int) -> int:
    """Bottlenecks in a stage of `repeats` blocks: each counts as two."""
    return max(repeats // 2, 1)


def branch_depths(deepest: int) -> list[int]:
    """Bottlenecks in every branch of an MBLABlock: none, the largest power of two below `deepest`, `deepest`."""
    return [0, 1 << (deepest - 1).bit_length() - 1, deepest] if deepest > 1 else [0, 1]


class BottleRep(nn.Module):
    """Basic blocks in a row, added to their input.

    `alpha` weighs the input. It stays 1: the published training leaves it in no parameter group (specification,
    models 7.3).
    """

    def __init__(self, channels: int, block: Block, blocks: int = 2) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1), requires_grad=False)
        self._blocks = [f"conv{number}" for number in range(1, blocks + 1)]
        for name in self._blocks:
            self.add_module(name, block(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name in self._blocks:
            out = getattr(self, name)(out)
        return torch.addcmul(out, self.alpha.to(out.dtype), x)  # alpha's own type would widen half precision


class BepC3(nn.Module):
    """Bottlenecks on one part of the channels, a bypass for the other.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        repeats: basic blocks in the stage.
        block: the basic block.
        ratio: channels of each part as a part of `out_channels`.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, *, block: Block, ratio: float) -> None:
        super().__init__()
        hidden, unit = int(out_channels * ratio), unit_of(block)
        self.cv1 = unit(in_channels, hidden, 1)
        self.cv2 = unit(in_channels, hidden, 1)
        self.cv3 = unit(2 * hidden, out_channels, 1)
        self.m = RepBlock(hidden, hidden, bottlenecks(repeats), lambda _, channels: BottleRep(channels, block))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class MBLABlock(nn.Module):
    """Parts of the channels in branches of growing depth; every intermediate result reaches the output.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        repeats: basic blocks in the deepest branch, two a bottleneck.
        block: the basic block.
        ratio: channels of each part as a part of `out_channels`.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, *, block: Block, ratio: float) -> None:
        super().__init__()
        depths = branch_depths(bottlenecks(repeats))
        hidden, activation = int(out_channels * ratio), unit_of(block).activation
        self._branches = len(depths)
        self.cv1 = ConvModule(in_channels, len(depths) * hidden, 1, activation=activation())
        self.cv2 = ConvModule((sum(depths) + len(depths)) * hidden, out_channels, 1, activation=activation())
        self.m = nn.ModuleList(
            nn.Sequential(*(BottleRep(hidden, block, blocks=3) for _ in range(depth))) for depth in depths[1:]
        )

    def forward(self, x: Tensor) -> Tensor:
        bypass, *parts = self.cv1(x).chunk(self._branches, dim=1)
        results = [bypass]
        for part, bottleneck_chain in zip(parts, self.m, strict=True):
            results.append(part)
            for bottleneck in bottleneck_chain:  # type: ignore[attr-defined]
                results.append(bottleneck(results[-1]))
        return self.cv2(torch.cat(results, dim=1))
