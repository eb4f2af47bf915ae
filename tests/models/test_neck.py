"""The neck."""

from __future__ import annotations

import functools

import pytest
import torch

from yolov6_ignite.models.blocks import RepBlock
from yolov6_ignite.models.conv import ConvBNReLU
from yolov6_ignite.models.neck import RepBiFPANNeck

LAYERS = {
    3: "reduce_layer0 Bifusion0 Rep_p4 reduce_layer1 Bifusion1 Rep_p3 downsample2 Rep_n3 downsample1 Rep_n4",
    4: (
        "reduce_layer0 Bifusion0 Rep_p5 reduce_layer1 Bifusion1 Rep_p4 reduce_layer2 Bifusion2 Rep_p3 "
        "downsample2 Rep_n4 downsample1 Rep_n5 downsample0 Rep_n6"
    ),
}


def neck(levels: int) -> RepBiFPANNeck:
    steps = levels - 1
    return RepBiFPANNeck(
        [4 + i for i in range(levels + 1)],
        reduce_channels=[10 + i for i in range(steps)],
        down_channels=[20 + i for i in range(steps)],
        out_channels=[30 + i for i in range(steps)],
        repeats=[1] * (2 * steps),
        stage=functools.partial(RepBlock, block=ConvBNReLU),
    )


@pytest.mark.parametrize("levels", [3, 4])
def test_sizes_channels_and_names(levels: int) -> None:
    model = neck(levels)
    assert [name for name, _ in model.named_children()] == LAYERS[levels].split()
    maps = model([torch.rand(2, 4 + i, 64 >> i, 32 >> i) for i in range(levels + 1)])
    channels = [10 + levels - 2, *(30 + i for i in range(levels - 1))]
    assert [tuple(x.shape) for x in maps] == [(2, c, 32 >> i, 16 >> i) for i, c in enumerate(channels)]


@pytest.mark.parametrize("which", range(4))
def test_every_output_sees_every_input(which: int) -> None:
    torch.manual_seed(0)
    model = neck(3).eval()
    maps = [torch.rand(1, 4 + i, 32 >> i, 32 >> i) for i in range(4)]
    before = model(maps)
    maps[which] = maps[which] + 1
    assert not any(torch.allclose(a, b, rtol=0, atol=1e-7) for a, b in zip(model(maps), before, strict=True))
