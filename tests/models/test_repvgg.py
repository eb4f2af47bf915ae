"""The RepVGG block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.repvgg import RepVGGBlock

Randomise = Callable[[nn.Module], None]


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "identity"),
    [(8, 8, 1, True), (8, 16, 1, False), (16, 16, 2, False), (3, 8, 2, False)],
)
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_is_the_sum_of_its_branches(
    in_channels: int,
    out_channels: int,
    stride: int,
    identity: bool,
    size: tuple[int, int],
    training: bool,
    randomise_batch_norms: Randomise,
) -> None:
    block = RepVGGBlock(in_channels, out_channels, stride).double().train(training)
    randomise_batch_norms(block)
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)
    actual = block(x.clone())
    dense = block.rbr_dense.bn(F.conv2d(x, block.rbr_dense.conv.weight, stride=stride, padding=1))
    pointwise = block.rbr_1x1.bn(F.conv2d(x, block.rbr_1x1.conv.weight, stride=stride))
    expected = dense + pointwise
    assert (block.rbr_identity is not None) == identity
    if block.rbr_identity is not None:
        expected = expected + block.rbr_identity(x)
    torch.testing.assert_close(actual, expected.relu())


def test_gradients_are_those_of_the_sum() -> None:
    torch.manual_seed(0)
    block = RepVGGBlock(4, 4).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_input_is_not_overwritten() -> None:
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    RepVGGBlock(8, 8)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (3, 2), (16, 2)])
def test_merges_into_one_convolution(in_channels: int, stride: int, randomise_batch_norms: Randomise) -> None:
    block = RepVGGBlock(in_channels, 8, stride).double().eval()
    randomise_batch_norms(block)
    merged = deployed(block)
    assert list(merged.state_dict()) == ["rbr_reparam.weight", "rbr_reparam.bias"]
    x = torch.randn(2, in_channels, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(merged(x), block(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_channels", [3, 8, 15, 16])
def test_channels_last_gives_the_same_result(in_channels: int) -> None:
    torch.manual_seed(0)
    block = RepVGGBlock(in_channels, 16, stride=2)
    x = torch.randn(4, in_channels, 64, 64)
    expected = block(x)
    actual = block.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
