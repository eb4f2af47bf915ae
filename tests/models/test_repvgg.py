"""RepVGG and QARepVGG: what their branches compute. Merging is tested for all basic blocks together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.repvgg import QARepVGGBlock, QARepVGGBlockV2, RepVGGBlock, identity_kernel, split_stride

Randomise = Callable[[nn.Module], None]


def repvgg_branches(block: RepVGGBlock, x: Tensor, stride: int) -> Tensor:
    dense = block.rbr_dense.bn(F.conv2d(x, block.rbr_dense.conv.weight, stride=stride, padding=1))
    pointwise = block.rbr_1x1.bn(F.conv2d(x, block.rbr_1x1.conv.weight, stride=stride))
    return dense + pointwise if block.rbr_identity is None else dense + pointwise + block.rbr_identity(x)


def qarepvgg_branches(block: QARepVGGBlock, x: Tensor, stride: int) -> Tensor:
    dense = block.rbr_dense.bn(F.conv2d(x, block.rbr_dense.conv.weight, stride=stride, padding=1))
    total = dense + F.conv2d(x, block.rbr_1x1.weight, stride=stride)
    if x.shape[1] == dense.shape[1] and stride == 1:
        total = total + x
        if isinstance(block, QARepVGGBlockV2):
            box = torch.full((x.shape[1], 1, 3, 3), 1 / 9, dtype=x.dtype)
            total = total + F.conv2d(x, box, padding=1, groups=x.shape[1])  # zeros at the border count
    return block.bn(total)


@pytest.mark.parametrize(
    ("kind", "branches"),
    [
        (RepVGGBlock, repvgg_branches),
        (QARepVGGBlock, qarepvgg_branches),
        (QARepVGGBlockV2, qarepvgg_branches),
    ],
)
@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(8, 8, 1), (8, 16, 1), (16, 16, 2), (3, 8, 2)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_is_the_sum_of_its_branches(
    kind: type[nn.Module],
    branches: Callable[[nn.Module, Tensor, int], Tensor],
    in_channels: int,
    out_channels: int,
    stride: int,
    size: tuple[int, int],
    training: bool,
    randomise_scales: Randomise,
) -> None:
    block = kind(in_channels, out_channels, stride).double().train(training)
    randomise_scales(block)
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)
    torch.testing.assert_close(block(x), branches(block, x, stride).relu())


@pytest.mark.parametrize(("shape", "identity"), [((8, 8, 1), True), ((8, 16, 1), False), ((16, 16, 2), False)])
def test_identity_has_a_batch_norm_where_shapes_allow_it(shape: tuple[int, int, int], identity: bool) -> None:
    assert (RepVGGBlock(*shape).rbr_identity is not None) == identity


def test_average_is_what_the_second_version_adds(randomise_scales: Randomise) -> None:
    first, second = QARepVGGBlock(4, 4).eval(), QARepVGGBlockV2(4, 4).eval()
    randomise_scales(first)
    second.load_state_dict(first.state_dict())
    kernels = [deployed(block).rbr_reparam.weight for block in (first, second)]
    scale = first.bn.weight / (first.bn.running_var + first.bn.eps).sqrt()
    torch.testing.assert_close(kernels[1] - kernels[0], torch.diag(scale)[..., None, None].expand(4, 4, 3, 3) / 9)
    assert torch.equal(deployed(first).rbr_reparam.bias, deployed(second).rbr_reparam.bias)


@pytest.mark.parametrize("kind", [RepVGGBlock, QARepVGGBlock, QARepVGGBlockV2])
def test_deployed_form_has_the_published_names(kind: type[nn.Module]) -> None:
    assert list(deployed(kind(8, 8)).state_dict()) == ["rbr_reparam.weight", "rbr_reparam.bias"]


@pytest.mark.parametrize("kind", [RepVGGBlock, QARepVGGBlock, QARepVGGBlockV2])
def test_merging_again_changes_nothing(kind: type[nn.Module]) -> None:
    once = deployed(kind(8, 8))
    twice = deployed(once)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_identity_kernel_scales_every_channel() -> None:
    scale = torch.tensor([0.5, -2.0, 3.0])
    x = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(F.conv2d(x, identity_kernel(scale), padding=1), x * scale.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("in_channels", [1, 3, 8, 15, 16, 17, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_split_stride_samples_the_same_pixels(in_channels: int, stride: int) -> None:
    step, own = split_stride(in_channels, stride)
    assert step * own == stride
    assert own == 1 or in_channels >= 16  # the strided convolution that a CPU gets wrong is never asked for
    conv = nn.Conv2d(in_channels, 4, 1, own, bias=False)
    for height, width in ((6, 8), (7, 5), (1, 2)):
        x = torch.randn(1, in_channels, height, width)
        expected = torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], x)[..., ::stride, ::stride]
        torch.testing.assert_close(conv(x[..., ::step, ::step]), expected)
