"""The backbone."""

from __future__ import annotations

import functools

import pytest
import torch

from yolov6_ignite.models.backbone import EfficientRep
from yolov6_ignite.models.blocks import RepBlock
from yolov6_ignite.models.conv import ConvBNReLU
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


@pytest.mark.parametrize(("levels", "fuse_p2"), [(4, True), (4, False), (5, True)])
def test_maps_halve_from_level_to_level(levels: int, fuse_p2: bool) -> None:
    maps = backbone(levels, fuse_p2=fuse_p2)(torch.rand(2, 3, 64, 128))
    first = 1 if fuse_p2 else 2
    expected = [(2, 4 * (i + 1), 64 >> (i + 1), 128 >> (i + 1)) for i in range(first, levels + 1)]
    assert [tuple(x.shape) for x in maps] == expected


def test_only_the_last_level_pools() -> None:
    model = backbone(4, fuse_p2=True)
    assert [len(getattr(model, f"ERBlock_{level}")) for level in (2, 3, 4, 5)] == [2, 2, 2, 3]


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
