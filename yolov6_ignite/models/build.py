"""From the model section of a configuration to a detector: scaling and assembly (specification, models 2 and 7)."""

from __future__ import annotations

import functools
import math

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.backbone import EfficientRep
from yolov6_ignite.models.blocks import RepBlock, basic_block
from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.detector import Detector
from yolov6_ignite.models.head import EffiDeHead
from yolov6_ignite.models.neck import RepBiFPANNeck
from yolov6_ignite.models.pooling import CSPSPPF, SPPF

__all__ = ["build_model", "scale_channels", "scale_repeats"]

STRIDES = [8, 16, 32]  # of the head's levels: five halvings, and the two finest maps have no head


def scale_repeats(repeats: int, depth_multiple: float) -> int:
    """Blocks in a stage after scaling; a single block stays single."""
    return max(round(repeats * depth_multiple), 1) if repeats > 1 else repeats


def scale_channels(channels: int, width_multiple: float) -> int:
    """Channels after scaling, rounded up to a multiple of 8."""
    return math.ceil(channels * width_multiple / 8) * 8


def build_model(config: ModelConfig, num_classes: int, *, fuse_ab: bool = False, distill_ns: bool = False) -> Detector:
    """Builds the detector that a configuration describes, with fresh weights and in train mode.

    The keys and shapes of its state dict are those of the published weights.

    Args:
        config: the `model` section.
        num_classes: number of classes.
        fuse_ab: add the anchor-aided training branch to the head.
        distill_ns: predict distances both directly and as distributions, for self-distillation of N and S.

    Raises:
        ConfigError: the section contradicts itself, or asks for a head that is not available.
    """
    for option, wanted in (("fuse_ab", fuse_ab), ("distill_ns", distill_ns)):
        if wanted:
            raise ConfigError(f"{option}: this version has only the plain head; leave {option} off")
    if num_classes < 1:
        raise ConfigError(f"number of classes: {num_classes}; a detector needs at least one, see names in the data set")
    _check(config)
    channels = [scale_channels(c, config.width_multiple) for c in config.backbone.out_channels]
    neck_channels = [scale_channels(c, config.width_multiple) for c in config.neck.out_channels]
    repeats = [scale_repeats(r, config.depth_multiple) for r in config.backbone.num_repeats]
    neck_repeats = [scale_repeats(r, config.depth_multiple) for r in config.neck.num_repeats]

    block = basic_block(config.training_mode)
    stage = functools.partial(RepBlock, block=block)
    pool = functools.partial(
        CSPSPPF if config.backbone.cspsppf else SPPF, unit=ConvBNSiLU if block is ConvBNSiLU else ConvBNReLU
    )
    backbone = EfficientRep(
        channels,
        repeats[1:],  # the first number belongs to the stem, which is one block
        block=block,
        stage=stage,
        pool=pool,
        fuse_p2=config.backbone.fuse_P2,
    )
    reduce0, reduce1, down0, out0, down1, out1 = neck_channels
    neck = RepBiFPANNeck(
        channels[1:],
        reduce_channels=(reduce0, reduce1),
        down_channels=(down0, down1),
        out_channels=(out0, out1),
        repeats=neck_repeats,
        stage=stage,
    )
    head = EffiDeHead((reduce1, out0, out1), STRIDES, num_classes, config.head.reg_max)
    return Detector(backbone, neck, head, strides=STRIDES, num_classes=num_classes)


def _check(config: ModelConfig) -> None:
    """Refuses what would fail, or be ignored, while building."""
    for key, values, count in (
        ("backbone.num_repeats", config.backbone.num_repeats, 5),
        ("backbone.out_channels", config.backbone.out_channels, 5),
        ("neck.num_repeats", config.neck.num_repeats, 4),
        ("neck.out_channels", config.neck.out_channels, 6),
    ):
        if len(values) != count:
            raise ConfigError(f"model.{key}: {len(values)} values; {config.backbone.type} needs {count}")
    if not config.backbone.fuse_P2:
        raise ConfigError(
            f"model.backbone.fuse_P2: false, but {config.neck.type} needs the map of stride 4; set it to true"
        )
    if config.head.strides != STRIDES:
        raise ConfigError(f"model.head.strides: {config.head.strides}; this network's strides are {STRIDES}")
