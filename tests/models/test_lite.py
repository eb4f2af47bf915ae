"""The blocks of the Lite models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.lite import CSPBlock, DPBlock, LiteDownsampleUnit, LiteUnit, SEBlock

Randomise = Callable[[nn.Module], None]


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def test_squeeze_and_excitation_weighs_channels_by_the_whole_image() -> None:
    block = SEBlock(8)
    x = torch.randn(2, 8, 5, 7)
    mean = x.mean(dim=(2, 3))
    hidden = (mean @ block.conv1.weight[..., 0, 0].T + block.conv1.bias).relu()
    weights = (hidden @ block.conv2.weight[..., 0, 0].T + block.conv2.bias + 3).clamp(0, 6) / 6
    assert block.conv1.out_channels == 2
    torch.testing.assert_close(block(x), x * weights[..., None, None])


def test_unit_keeps_one_half_and_shuffles() -> None:
    unit = LiteUnit(hidden_channels=4, channels=8).eval()
    x = torch.randn(2, 8, 4, 5)
    part = unit.conv_1(unit.se(unit.conv_dw_1(unit.conv_pw_1(x[:, 4:]))))
    out = unit(x)
    torch.testing.assert_close(out[:, 0::2], x[:, :4], rtol=0, atol=0)
    torch.testing.assert_close(out[:, 1::2], part)


def test_depthwise_convolution_of_the_unit_has_no_activation() -> None:
    halving = LiteDownsampleUnit(4, 8, 8)
    for unit in (LiteUnit(4, 8).conv_dw_1, halving.conv_dw_1, halving.conv_dw_2):
        assert unit.block.act is None
        assert unit.block.conv.groups == unit.block.conv.in_channels == 4


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_halving_unit_mixes_two_branches(size: tuple[int, int]) -> None:
    unit = LiteDownsampleUnit(in_channels=6, hidden_channels=8, out_channels=16).eval()
    x = torch.randn(2, 6, *size)
    first = unit.conv_1(unit.conv_dw_1(x))
    second = unit.conv_2(unit.se(unit.conv_dw_2(unit.conv_pw_2(x))))
    assert first.shape == second.shape == (2, 8, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert unit.conv_dw_2.block.conv.out_channels == 4  # a half of the hidden channels
    torch.testing.assert_close(unit(x), unit.conv_pw_3(unit.conv_dw_3(torch.cat((first, second), dim=1))))


@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 1), (5, 2), (3, 1)])
def test_depthwise_and_pointwise_in_a_row(kernel_size: int, stride: int, randomise_scales: Randomise) -> None:
    block = DPBlock(4, kernel_size, stride).double().eval()
    randomise_scales(block)
    x = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    depthwise, pointwise = block.conv_dw_1, block.conv_pw_1
    out = F.conv2d(x, depthwise.weight, depthwise.bias, stride, kernel_size // 2, groups=4)
    out = hardswish(block.bn_1(out))
    out = hardswish(block.bn_2(F.conv2d(out, pointwise.weight, pointwise.bias)))
    torch.testing.assert_close(block(x), out)

    merged = deployed(block)
    names = ["conv_dw_1.weight", "conv_dw_1.bias", "conv_pw_1.weight", "conv_pw_1.bias"]
    assert list(merged.state_dict()) == names
    assert not torch.allclose(merged.conv_dw_1.bias, depthwise.bias)
    torch.testing.assert_close(merged(x), out, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(deployed(merged)(x), merged(x), rtol=0, atol=0)


def test_partial_block_puts_the_bypass_last(randomise_scales: Randomise) -> None:
    block = CSPBlock(8, 6).double().eval()
    randomise_scales(block)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    part = block.blocks.conv_2(block.blocks.conv_1(block.conv_1(x)))
    assert part.shape[1] == 3
    torch.testing.assert_close(block(x), block.conv_3(torch.cat((part, block.conv_2(x)), dim=1)))
    torch.testing.assert_close(deployed(block)(x), block(x), rtol=1e-10, atol=1e-12)
