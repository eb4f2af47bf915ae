"""From the model section of a configuration to a detector (specification, models 7)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from torch import nn

from yolov6_ignite.config import HeadConfig, ModelConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.backbone import EfficientRep, LiteBackbone
from yolov6_ignite.models.blocks import BASIC_BLOCKS, Block, RepBlock, Stage, unit_of
from yolov6_ignite.models.consistency import check_model, head_strides
from yolov6_ignite.models.conv import ConvBNReLU, ConvBNSiLU
from yolov6_ignite.models.csp import BepC3, MBLABlock
from yolov6_ignite.models.detector import Detector
from yolov6_ignite.models.head import EffiDeHead
from yolov6_ignite.models.lite import DPBlock
from yolov6_ignite.models.neck import LiteNeck, PathAggregationNeck
from yolov6_ignite.models.pooling import CSPSPPF, SPPF
from yolov6_ignite.models.scaling import scaled

__all__ = ["build_model"]


def build_model(config: ModelConfig, num_classes: int, *, fuse_ab: bool = False, distill_ns: bool = False) -> Detector:
    """Builds the detector that a configuration describes, with fresh weights and in train mode.

    The keys and shapes of its state dict are those of the published weights.

    Args:
        config: the `model` section.
        num_classes: number of classes.
        fuse_ab: add the anchor-aided training branch to the head.
        distill_ns: predict distances both directly and as distributions, for self-distillation of N and S.

    Raises:
        ConfigError: the section contradicts itself, or the network has no such head.
    """
    if num_classes < 1:
        raise ConfigError(f"number of classes: {num_classes}; a detector needs at least one, see names in the data set")
    check_model(config, fuse_ab=fuse_ab, distill_ns=distill_ns)
    strides = head_strides(config)
    backbone, neck, channels = (_lite if config.neck.type == "Lite_EffiNeck" else _pyramid)(scaled(config))
    head = _head(config.head, channels, strides, num_classes, fuse_ab=fuse_ab, distill_ns=distill_ns)
    return Detector(backbone, neck, head, strides=strides, size_multiple=config.size_multiple, num_classes=num_classes)


def _pyramid(config: ModelConfig) -> tuple[nn.Module, nn.Module, Sequence[int]]:
    """Backbone, neck and the channels of the neck's maps."""
    block = BASIC_BLOCKS[config.training_mode]
    channels, neck_channels = config.backbone.out_channels, config.neck.out_channels
    # EfficientRep6 pools with ReLU even where its blocks have SiLU.
    unit = ConvBNReLU if config.backbone.type == "EfficientRep6" else unit_of(block)
    backbone = EfficientRep(
        channels,
        config.backbone.num_repeats[1:],  # the first number belongs to the stem, which is one block
        block=block,
        stage=_stage(block, config.backbone.stage_block_type, config.backbone.csp_e),
        pool=functools.partial(CSPSPPF if config.backbone.cspsppf else SPPF, unit=unit),
        fuse_p2=config.backbone.fuse_P2,
    )
    if len(channels) == 6:
        reduced, out = neck_channels[:3], neck_channels[3:]
        down = [reduced[-1], *out[:-1]]
    else:
        reduced, down, out = neck_channels[:2], neck_channels[2::2], neck_channels[3::2]
    neck = PathAggregationNeck(
        channels[1 if config.backbone.fuse_P2 else 2 :],
        reduce_channels=reduced,
        down_channels=down,
        out_channels=out,
        repeats=config.neck.num_repeats,
        stage=_stage(block, config.neck.stage_block_type, config.neck.csp_e),
        bifusion=config.backbone.fuse_P2,
    )
    return backbone, neck, (reduced[-1], *out)


def _lite(config: ModelConfig) -> tuple[nn.Module, nn.Module, Sequence[int]]:
    channels, unified = config.backbone.out_channels, config.neck.unified_channels
    assert unified is not None
    backbone = LiteBackbone(channels, config.backbone.num_repeats, hidden_ratio=config.backbone.scale_size)
    return backbone, LiteNeck(channels[2:], unified), [unified] * 4


def _stage(block: Block, csp_type: Literal["BepC3", "MBLABlock"], csp_ratio: float | None) -> Stage:
    if csp_ratio is None:
        return functools.partial(RepBlock, block=block)
    return functools.partial(MBLABlock if csp_type == "MBLABlock" else BepC3, block=block, ratio=csp_ratio)


def _head(
    config: HeadConfig,
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    fuse_ab: bool,
    distill_ns: bool,
) -> EffiDeHead:
    if config.type == "Lite_EffideHead":
        return EffiDeHead(channels, strides, num_classes, 0, stem=DPBlock, conv=DPBlock, projection=False)
    anchors = [list(zip(a[::2], a[1::2], strict=True)) for a in config.anchors_init or []]
    return EffiDeHead(
        channels,
        strides,
        num_classes,
        config.reg_max,
        stem=lambda c: ConvBNSiLU(c, c, 1),
        conv=lambda c: ConvBNSiLU(c, c, 3),
        anchors=anchors if fuse_ab else None,
        distances_beside=distill_ns,
    )
