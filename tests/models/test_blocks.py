"""Basic blocks and what is built of them: stages and fusion."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolov6_ignite.models.blocks import BASIC_BLOCKS, BiFusion, RepBlock, unit_of
from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.deploy import deployed


@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_every_basic_block_has_the_same_interface(mode: str) -> None:
    block = BASIC_BLOCKS[mode]
    x = torch.rand(2, 4, 8, 10)
    assert block(4, 6)(x).shape == (2, 6, 8, 10)
    assert block(4, 6, stride=2)(x).shape == (2, 6, 4, 5)


@settings(max_examples=20)
@given(
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)) | st.integers(1, 20).map(lambda n: (n, n)),
    stride=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_every_basic_block_deploys_to_one_convolution(
    mode: str,
    channels: tuple[int, int],
    stride: int,
    size: tuple[int, int],
    randomise_scales: Callable[[nn.Module], None],
) -> None:
    block = BASIC_BLOCKS[mode](*channels, stride=stride).double().eval()
    randomise_scales(block)
    merged = deployed(block)
    weight, bias = merged.parameters()
    assert weight.shape == (channels[1], channels[0], 3, 3)
    assert bias.shape == (channels[1],)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    torch.testing.assert_close(merged(x), block(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_input_is_not_overwritten(mode: str) -> None:
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    block = BASIC_BLOCKS[mode](8, 8)
    block(x)
    deployed(block)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("mode", BASIC_BLOCKS)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_every_basic_block(mode: str, stride: int) -> None:
    """Branches are summed in place; that must not spoil what another branch keeps for its gradient."""
    block = BASIC_BLOCKS[mode](3, 3, stride=stride).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in block.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    values = [parameter.detach().clone().requires_grad_() for parameter in block.parameters()]
    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("mode", BASIC_BLOCKS)
@pytest.mark.parametrize("in_channels", [3, 8, 15, 16])
def test_channels_last_gives_the_same_result(mode: str, in_channels: int) -> None:
    """Strided 1x1 convolutions of few channels in this layout are what the CPU of torch 2.13 gets wrong."""
    block = BASIC_BLOCKS[mode](in_channels, 16, stride=2)
    x = torch.randn(4, in_channels, 64, 64)
    expected = block(x)
    expected.square().mean().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    block.zero_grad()
    actual = block.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    actual.square().mean().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    for parameter, gradient in zip(block.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_unit_beside_a_basic_block(mode: str) -> None:
    assert unit_of(BASIC_BLOCKS[mode]) is (ConvBNSiLU if mode == "conv_silu" else ConvBNReLU)


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
