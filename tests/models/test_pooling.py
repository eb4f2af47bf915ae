"""Pyramid pooling."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.pooling import CSPSPPF, SPPF, pooled_pyramid


def test_chained_pools_equal_larger_ones() -> None:
    x = torch.randn(1, 2, 9, 14)
    larger = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    assert torch.equal(pooled_pyramid(x, nn.MaxPool2d(5, 1, 2)), torch.cat((x, *larger), dim=1))


@pytest.mark.parametrize("unit", [ConvBNReLU, ConvBNSiLU])
@pytest.mark.parametrize("pool", [SPPF, CSPSPPF])
def test_size_is_kept(pool: type[nn.Module], unit: type[nn.Module]) -> None:
    assert pool(8, 12, unit)(torch.rand(2, 8, 3, 5)).shape == (2, 12, 3, 5)


def test_bypass_stands_before_the_pyramid() -> None:
    module = CSPSPPF(4, 4, ConvBNReLU).eval()
    x = torch.rand(1, 4, 6, 6)
    joined: list[torch.Tensor] = []
    module.cspsppf.cv7.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    module(x)
    torch.testing.assert_close(joined[0][:, :2], module.cspsppf.cv2(x))
