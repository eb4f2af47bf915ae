"""The necks."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from yolov6_ignite.models.blocks import RepBlock
from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.neck import LiteNeck, PathAggregationNeck

LAYERS = {
    (3, False): ("Rep_p4 Rep_p3 Rep_n3 Rep_n4 reduce_layer0 upsample0 reduce_layer1 upsample1 downsample2 downsample1"),
    (3, True): ("reduce_layer0 Bifusion0 Rep_p4 reduce_layer1 Bifusion1 Rep_p3 downsample2 Rep_n3 downsample1 Rep_n4"),
    (4, False): (
        "reduce_layer0 upsample0 Rep_p5 reduce_layer1 upsample1 Rep_p4 reduce_layer2 upsample2 Rep_p3 "
        "downsample2 Rep_n4 downsample1 Rep_n5 downsample0 Rep_n6"
    ),
    (4, True): (
        "reduce_layer0 Bifusion0 Rep_p5 reduce_layer1 Bifusion1 Rep_p4 reduce_layer2 Bifusion2 Rep_p3 "
        "downsample2 Rep_n4 downsample1 Rep_n5 downsample0 Rep_n6"
    ),
}
"""By levels and bifusion: the layers in the order of the published weights."""


def neck(levels: int, *, bifusion: bool) -> PathAggregationNeck:
    steps = levels - 1
    return PathAggregationNeck(
        [4 + i for i in range(levels + bifusion)],
        reduce_channels=[10 + i for i in range(steps)],
        down_channels=[20 + i for i in range(steps)],
        out_channels=[30 + i for i in range(steps)],
        repeats=[1 + i for i in range(2 * steps)],
        stage=functools.partial(RepBlock, block=ConvBNSiLU),
        bifusion=bifusion,
    )


def maps_for(levels: int, *, bifusion: bool) -> list[torch.Tensor]:
    return [torch.rand(2, 4 + i, 64 >> i, 32 >> i) for i in range(levels + bifusion)]


@pytest.mark.parametrize(("levels", "bifusion"), LAYERS)
def test_sizes_channels_and_names(levels: int, bifusion: bool) -> None:
    model = neck(levels, bifusion=bifusion)
    assert [name for name, _ in model.named_children()] == LAYERS[levels, bifusion].split()
    first = 1 if bifusion else 0
    outputs = model(maps_for(levels, bifusion=bifusion))
    channels = [10 + levels - 2, *(30 + i for i in range(levels - 1))]
    expected = [(2, c, 64 >> (first + i), 32 >> (first + i)) for i, c in enumerate(channels)]
    assert [tuple(x.shape) for x in outputs] == expected


@pytest.mark.parametrize(("levels", "bifusion"), LAYERS)
def test_stages_have_their_own_repeats_in_the_order_of_the_steps(levels: int, bifusion: bool) -> None:
    model = neck(levels, bifusion=bifusion)
    order = ("p4", "p3", "n3", "n4") if levels == 3 else ("p5", "p4", "p3", "n4", "n5", "n6")
    names = [f"Rep_{name}" for name in order]
    counts = [sum(isinstance(m, ConvBNSiLU) for m in model.get_submodule(name).modules()) for name in names]
    assert counts == [1 + i for i in range(len(names))]


@pytest.mark.parametrize(("levels", "bifusion"), LAYERS)
def test_units_outside_the_stages_use_relu(levels: int, bifusion: bool) -> None:
    model = neck(levels, bifusion=bifusion)
    outside = [child for name, child in model.named_children() if not name.startswith("Rep_")]
    units = [m for child in outside for m in child.modules() if isinstance(m, ConvBNReLU | ConvBNSiLU)]
    assert {type(unit) for unit in units} == {ConvBNReLU}


@pytest.mark.parametrize(
    ("levels", "bifusion", "which"),
    [(levels, bifusion, which) for levels, bifusion in LAYERS for which in range(levels + bifusion)],
)
def test_every_output_sees_every_input(levels: int, bifusion: bool, which: int) -> None:
    model = neck(levels, bifusion=bifusion).double().eval()
    maps = [x.double() for x in maps_for(levels, bifusion=bifusion)]
    before = model(maps)
    maps[which] = maps[which] + 1
    assert not any(torch.equal(a, b) for a, b in zip(model(maps), before, strict=True))


@pytest.mark.parametrize("bifusion", [False, True])
def test_maps_of_three_levels_flow_as_specified(bifusion: bool) -> None:
    """The steps written out one by one, as in specification, models 5."""
    model = neck(3, bifusion=bifusion).eval()
    maps = maps_for(3, bifusion=bifusion)
    p5, p4, p3 = maps[-1], maps[-2], maps[-3]
    f0 = model.reduce_layer0(p5)
    a = model.Bifusion0(f0, p4, p3) if bifusion else torch.cat((model.upsample0(f0), p4), dim=1)
    f1 = model.reduce_layer1(model.Rep_p4(a))
    b = model.Bifusion1(f1, p3, maps[0]) if bifusion else torch.cat((model.upsample1(f1), p3), dim=1)
    fine = model.Rep_p3(b)
    middle = model.Rep_n3(torch.cat((model.downsample2(fine), f1), dim=1))
    coarse = model.Rep_n4(torch.cat((model.downsample1(middle), f0), dim=1))
    for actual, expected in zip(model(maps), (fine, middle, coarse), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("coarsest", [(2, 3), (1, 1), (3, 2)])
def test_lite_neck_adds_a_fourth_level(coarsest: tuple[int, int]) -> None:
    height, width = coarsest
    maps = [torch.rand(2, 48 >> i, height << (2 - i), width << (2 - i)) for i in range(3)]
    outputs = LiteNeck([48, 24, 12], 16)(maps)
    sizes = [tuple(x.shape[-2:]) for x in maps] + [((height + 1) // 2, (width + 1) // 2)]
    assert [tuple(x.shape) for x in outputs] == [(2, 16, *size) for size in sizes]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_output_of_the_lite_neck_sees_every_input(which: int) -> None:
    model = LiteNeck([4, 6, 8], 16).double().eval()
    maps = [torch.rand(1, c, 8 >> i, 8 >> i, dtype=torch.float64) for i, c in enumerate((4, 6, 8))]
    before = model(maps)
    maps[which] = maps[which] + 1
    assert not any(torch.equal(a, b) for a, b in zip(model(maps), before, strict=True))


def test_lite_neck_repeats_pixels_to_enlarge() -> None:
    model = LiteNeck([4, 6, 8], 16).eval()
    seen: list[torch.Tensor] = []
    model.Csp_p4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = [torch.rand(1, c, 8 >> i, 8 >> i) for i, c in enumerate((4, 6, 8))]
    model(maps)
    enlarged = model.reduce_layer0(maps[2]).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(seen[0][:, :16], enlarged)
    assert not any(isinstance(m, nn.Upsample | nn.ConvTranspose2d) for m in model.modules())
