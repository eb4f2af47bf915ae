"""Stages and fusion."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.models.blocks import BiFusion, RepBlock, basic_block
from yolov6_ignite.models.conv import ConvBNReLU


@pytest.mark.parametrize("mode", ["repvgg", "conv_relu", "conv_silu"])
def test_every_basic_block_has_the_same_interface(mode: str) -> None:
    block = basic_block(mode)
    x = torch.rand(2, 4, 8, 10)
    assert block(4, 6)(x).shape == (2, 6, 8, 10)
    assert block(4, 6, stride=2)(x).shape == (2, 6, 4, 5)


@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_stage_has_as_many_blocks_as_asked_for(repeats: int) -> None:
    stage = RepBlock(4, 6, repeats, ConvBNReLU)
    assert sum(isinstance(module, ConvBNReLU) for module in stage.modules()) == repeats
    assert stage(torch.rand(1, 4, 5, 5)).shape == (1, 6, 5, 5)


def test_fusion_meets_at_the_middle_resolution() -> None:
    fusion = BiFusion((5, 7), 6)
    fused = fusion(torch.rand(2, 6, 2, 3), torch.rand(2, 5, 4, 6), torch.rand(2, 7, 8, 12))
    assert fused.shape == (2, 6, 4, 6)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_fusion_uses_all_three_maps(which: int) -> None:
    fusion = BiFusion((5, 7), 6)
    maps = [torch.rand(2, 6, 2, 3), torch.rand(2, 5, 4, 6), torch.rand(2, 7, 8, 12)]
    before = fusion(*maps)
    maps[which] = torch.rand_like(maps[which])
    assert not torch.allclose(fusion(*maps), before)
