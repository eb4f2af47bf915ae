"""Stages with cross-stage partial connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.models.blocks import BASIC_BLOCKS
from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.csp import BepC3, BottleRep, MBLABlock
from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.repvgg import RepVGGBlock

Randomise = Callable[[nn.Module], None]

DEPTHS = {
    1: [0, 1],
    2: [0, 1],
    3: [0, 1],
    4: [0, 1, 2],
    5: [0, 1, 2],
    6: [0, 2, 3],
    7: [0, 2, 3],
    8: [0, 2, 4],
    9: [0, 2, 4],
    10: [0, 4, 5],
}
"""By repeats: bottlenecks in every branch of an MBLA block."""


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_bottleneck_adds_its_weighted_input(blocks: int, alpha: float) -> None:
    bottleneck = BottleRep(4, ConvBNReLU, blocks).eval()
    state = bottleneck.state_dict()
    bottleneck.load_state_dict({**state, "alpha": torch.tensor([alpha])})
    x = torch.randn(2, 4, 5, 6)
    out = x
    for number in range(1, blocks + 1):
        out = bottleneck.get_submodule(f"conv{number}")(out)
    torch.testing.assert_close(bottleneck(x), out + alpha * x)
    torch.testing.assert_close(deployed(bottleneck)(x), out + alpha * x, rtol=1e-5, atol=1e-6)


def test_weight_of_the_input_starts_at_one_and_is_frozen() -> None:
    bottleneck = BottleRep(4, ConvBNReLU)
    assert bottleneck.alpha.tolist() == [1.0]
    assert not bottleneck.alpha.requires_grad
    assert next(iter(bottleneck.state_dict())) == "alpha"


def test_bottleneck_keeps_half_precision() -> None:
    bottleneck = BottleRep(4, ConvBNReLU)
    with torch.autocast("cpu", torch.bfloat16):
        assert bottleneck(torch.randn(2, 4, 5, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("repeats", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (12, 6)])
def test_a_bottleneck_counts_as_two_repeats(repeats: int, count: int) -> None:
    stage = BepC3(6, 8, repeats, block=RepVGGBlock, ratio=0.5)
    assert sum(isinstance(module, BottleRep) for module in stage.modules()) == count
    assert sum(isinstance(module, RepVGGBlock) for module in stage.modules()) == 2 * count
    assert stage(torch.rand(2, 6, 4, 5)).shape == (2, 8, 4, 5)


def test_bottlenecks_stand_before_the_bypass() -> None:
    stage = BepC3(6, 8, 4, block=ConvBNReLU, ratio=0.5).eval()
    x = torch.randn(2, 6, 5, 4)
    part = stage.cv1(x)
    for bottleneck in (stage.m.conv1, *stage.m.block):
        part = bottleneck(part)
    torch.testing.assert_close(stage(x), stage.cv3(torch.cat((part, stage.cv2(x)), dim=1)))


@pytest.mark.parametrize(("out_channels", "ratio", "hidden"), [(96, 2 / 3, 64), (48, 2 / 3, 32), (10, 0.5, 5)])
def test_hidden_channels_are_cut_off(out_channels: int, ratio: float, hidden: int) -> None:
    assert BepC3(4, out_channels, 2, block=ConvBNReLU, ratio=ratio).cv1.block.conv.out_channels == hidden


@pytest.mark.parametrize(("repeats", "depths"), DEPTHS.items())
def test_branches_grow(repeats: int, depths: list[int]) -> None:
    stage = MBLABlock(6, 8, repeats, block=ConvBNSiLU, ratio=0.5)
    assert [len(branch) for branch in stage.m] == depths[1:]
    assert stage.cv1.conv.out_channels == 4 * len(depths)
    assert stage.cv2.conv.in_channels == 4 * (sum(depths) + len(depths))
    assert all(len(list(bottleneck.children())) == 3 for branch in stage.m for bottleneck in branch)
    assert stage(torch.rand(2, 6, 4, 5)).shape == (2, 8, 4, 5)


@pytest.mark.parametrize("repeats", [1, 4, 6, 8, 10])
def test_every_intermediate_result_reaches_the_output_in_order(repeats: int) -> None:
    stage = MBLABlock(6, 8, repeats, block=ConvBNSiLU, ratio=0.5).eval()
    x = torch.randn(2, 6, 5, 4)
    entry = stage.cv1(x)
    parts: list[Tensor] = []
    for number, depth in enumerate(DEPTHS[repeats]):
        parts.append(entry[:, 4 * number : 4 * (number + 1)])
        for step in range(depth):
            parts.append(stage.get_submodule(f"m.{number - 1}.{step}")(parts[-1]))
    torch.testing.assert_close(stage(x), stage.cv2(torch.cat(parts, dim=1)))


@pytest.mark.parametrize("stage", [BepC3, MBLABlock])
@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_units_have_the_activation_of_the_blocks(stage: Callable[..., nn.Module], mode: str) -> None:
    module = stage(4, 4, 4, block=BASIC_BLOCKS[mode], ratio=0.5)
    units = (module.cv1, module.cv2) if stage is MBLABlock else (module.cv1.block, module.cv2.block, module.cv3.block)
    assert {type(unit.act) for unit in units} == {nn.SiLU if mode == "conv_silu" else nn.ReLU}


@pytest.mark.parametrize("stage", [BepC3, MBLABlock])
@pytest.mark.parametrize("mode", BASIC_BLOCKS)
def test_deployed_stage_computes_the_same(
    stage: Callable[..., nn.Module], mode: str, randomise_scales: Randomise
) -> None:
    module = stage(6, 8, 4, block=BASIC_BLOCKS[mode], ratio=0.5).double().eval()
    randomise_scales(module)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(deployed(module)(x), module(x), rtol=1e-10, atol=1e-12)
