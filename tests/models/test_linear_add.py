"""The blocks of RepOptimizer. Merging is tested for all basic blocks together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.linear_add import LinearAddBlock, RealVGGBlock, ScaleLayer

Randomise = Callable[[nn.Module], None]


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "identity"),
    [(8, 8, 1, True), (8, 16, 1, False), (16, 16, 2, False), (3, 8, 2, False)],
)
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_is_the_scaled_sum_of_its_branches(
    in_channels: int,
    out_channels: int,
    stride: int,
    identity: bool,
    size: tuple[int, int],
    training: bool,
    randomise_scales: Randomise,
) -> None:
    block = LinearAddBlock(in_channels, out_channels, stride).double().train(training)
    randomise_scales(block)
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)

    def by_channel(layer: ScaleLayer) -> torch.Tensor:
        return layer.weight[:, None, None]

    total = by_channel(block.scale_conv) * F.conv2d(x, block.conv.weight, stride=stride, padding=1)
    total = total + by_channel(block.scale_1x1) * F.conv2d(x, block.conv_1x1.weight, stride=stride)
    assert (block.scale_identity is not None) == identity
    if block.scale_identity is not None:
        total = total + by_channel(block.scale_identity) * x
    torch.testing.assert_close(block(x), block.bn(total).relu())


def test_all_scales_start_at_one_and_train() -> None:
    scales = [layer.weight for layer in LinearAddBlock(4, 4).modules() if isinstance(layer, ScaleLayer)]
    assert len(scales) == 3
    assert all(scale.requires_grad and scale.tolist() == [1.0] * 4 for scale in scales)


def test_target_block_is_a_plain_convolution(randomise_scales: Randomise) -> None:
    block = RealVGGBlock(4, 6, stride=2)
    randomise_scales(block)
    x = torch.randn(2, 4, 7, 8)
    expected = F.batch_norm(
        F.conv2d(x, block.conv.weight, stride=2, padding=1), None, None, block.bn.weight, block.bn.bias, True, eps=1e-3
    )
    torch.testing.assert_close(block(x), expected.relu())
    assert [key.split(".")[0] for key in block.state_dict()] == ["conv"] + ["bn"] * 5


def test_names_of_the_deployed_forms() -> None:
    assert list(deployed(LinearAddBlock(4, 4)).state_dict()) == ["rbr_reparam.weight", "rbr_reparam.bias"]
    assert list(deployed(RealVGGBlock(4, 4)).state_dict()) == ["conv.weight", "conv.bias"]
