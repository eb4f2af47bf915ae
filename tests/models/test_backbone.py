"""The backbones."""

from __future__ import annotations

import functools

import pytest
import torch

from yolov6_ignite.models.backbone import EfficientRep, LiteBackbone
from yolov6_ignite.models.blocks import RepBlock
from yolov6_ignite.models.conv import ConvBNReLU
from yolov6_ignite.models.lite import LiteDownsampleUnit, LiteUnit
from yolov6_ignite.models.pooling import SPPF


def backbone(levels: int, *, fuse_p2: bool) -> EfficientRep:
    return EfficientRep(
        [4 * (i + 1) for i in range(levels + 1)],
        [1] * levels,
        block=ConvBNReLU,
        stage=functools.partial(RepBlock, block=ConvBNReLU),
        pool=functools.partial(SPPF, unit=ConvBNReLU),
        fuse_p2=fuse_p2,
    )


@pytest.mark.parametrize(("levels", "fuse_p2"), [(4, True), (4, False), (5, True), (5, False)])
def test_maps_halve_from_level_to_level(levels: int, fuse_p2: bool) -> None:
    maps = backbone(levels, fuse_p2=fuse_p2)(torch.rand(2, 3, 64, 128))
    first = 1 if fuse_p2 else 2
    expected = [(2, 4 * (i + 1), 64 >> (i + 1), 128 >> (i + 1)) for i in range(first, levels + 1)]
    assert [tuple(x.shape) for x in maps] == expected


def test_only_the_last_level_pools() -> None:
    model = backbone(4, fuse_p2=True)
    assert [len(getattr(model, f"ERBlock_{level}")) for level in (2, 3, 4, 5)] == [2, 2, 2, 3]
    model = backbone(5, fuse_p2=True)
    assert [len(getattr(model, f"ERBlock_{level}")) for level in (2, 3, 4, 5, 6)] == [2, 2, 2, 2, 3]


def test_every_level_needs_its_repeats() -> None:
    with pytest.raises(ValueError, match="zip"):
        EfficientRep(
            [4, 8],
            [1, 1],
            block=ConvBNReLU,
            stage=functools.partial(RepBlock, block=ConvBNReLU),
            pool=functools.partial(SPPF, unit=ConvBNReLU),
            fuse_p2=True,
        )


def test_lite_maps_have_strides_8_to_32() -> None:
    model = LiteBackbone([24, 32, 48, 96, 176], [1, 3, 7, 3], hidden_ratio=0.5)
    maps = model(torch.rand(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 48, 8, 12), (2, 96, 4, 6), (2, 176, 2, 3)]


def test_every_lite_level_begins_with_its_halving_unit() -> None:
    model = LiteBackbone([24, 32, 48, 96, 176], [1, 3, 7, 3], hidden_ratio=0.5)
    levels = [list(model.get_submodule(f"lite_effiblock_{level}")) for level in (1, 2, 3, 4)]
    assert [[type(unit) for unit in level] for level in levels] == [
        [LiteDownsampleUnit] + [LiteUnit] * count for count in (0, 2, 6, 2)
    ]


@pytest.mark.parametrize(("ratio", "hidden"), [(0.5, [16, 24, 48, 88]), (0.25, [8, 16, 24, 48])])
def test_hidden_channels_of_lite_units(ratio: float, hidden: list[int]) -> None:
    model = LiteBackbone([24, 32, 48, 96, 176], [2, 2, 2, 2], hidden_ratio=ratio)
    units = [model.get_submodule(f"lite_effiblock_{level}.1") for level in (1, 2, 3, 4)]
    assert [unit.conv_pw_1.block.conv.out_channels for unit in units] == hidden
    halving = [model.get_submodule(f"lite_effiblock_{level}.0") for level in (1, 2, 3, 4)]
    assert [unit.conv_pw_2.block.conv.out_channels for unit in halving] == [n // 2 for n in hidden]
