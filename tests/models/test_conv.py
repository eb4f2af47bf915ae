"""Convolution units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.conv import ConvBN, ConvBNHS, ConvBNReLU, ConvBNSiLU, Transpose

ACTIVATIONS = {
    ConvBN: lambda x: x,
    ConvBNReLU: lambda x: x.clamp(min=0),
    ConvBNSiLU: lambda x: x / (1 + torch.exp(-x)),
    ConvBNHS: lambda x: x * (x + 3).clamp(0, 6) / 6,
}


@pytest.mark.parametrize("unit", ACTIVATIONS)
@pytest.mark.parametrize(("kernel_size", "stride", "groups"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 2, 4), (5, 1, 4)])
def test_convolution_batch_norm_activation(unit: type[ConvBN], kernel_size: int, stride: int, groups: int) -> None:
    module = unit(4, 8, kernel_size, stride, groups=groups)
    x = torch.randn(2, 4, 6, 7)
    out = F.conv2d(x, module.block.conv.weight, None, stride, kernel_size // 2, groups=groups)
    mean, var = out.mean(dim=(0, 2, 3), keepdim=True), out.var(dim=(0, 2, 3), keepdim=True, correction=0)
    expected: Tensor = ACTIVATIONS[unit]((out - mean) / (var + 1e-3).sqrt())
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    assert next(iter(module.state_dict())) == "block.conv.weight"


def test_statistics_follow_with_the_momentum_of_the_family() -> None:
    module = ConvBNReLU(4, 8)
    x = torch.randn(2, 4, 6, 7)
    module(x)
    mean = module.block.conv(x).mean(dim=(0, 2, 3))
    torch.testing.assert_close(module.block.bn.running_mean, 0.03 * mean)


def test_transpose_gives_every_pixel_a_square_of_four() -> None:
    module = Transpose(3, 5)
    assert list(module.state_dict()) == ["upsample_transpose.weight", "upsample_transpose.bias"]
    x = torch.randn(2, 3, 4, 6)
    out = module(x)
    layer = module.upsample_transpose
    assert isinstance(layer, nn.ConvTranspose2d)
    expected = torch.einsum("bihw,iokl->bohkwl", x, layer.weight).reshape(2, 5, 8, 12) + layer.bias[:, None, None]
    torch.testing.assert_close(out, expected)
