"""Width and depth multiples: from the numbers of a recipe to those of its network (specification, models 2)."""

from __future__ import annotations

import math

from yolov6_ignite.config import ModelConfig

__all__ = ["round_channels", "scale_channels", "scale_repeats", "scaled"]

LITE_STEM_CHANNELS = 24  # of every Lite model, whatever its width


def scale_repeats(repeats: int, depth_multiple: float) -> int:
    """Blocks in a stage after scaling; a single block stays single."""
    return max(round(repeats * depth_multiple), 1) if repeats > 1 else repeats


def scale_channels(channels: int, width_multiple: float) -> int:
    """Channels after scaling, rounded up to a multiple of 8."""
    return math.ceil(channels * width_multiple / 8) * 8


def round_channels(channels: float, divisor: int) -> int:
    """Channels rounded to a multiple of `divisor`, never to less than 90 %: the rule of the Lite models.

    "MobileNetV2" (https://arxiv.org/abs/1801.04381), reference implementation.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def scaled(config: ModelConfig) -> ModelConfig:
    """The same network with both multiples 1: its numbers are those that are built. Scaling again changes nothing."""
    width, depth = config.width_multiple, config.depth_multiple
    backbone, neck = config.backbone, config.neck
    if backbone.type == "Lite_EffiBackbone":
        channels = [round_channels(c * width, 16) for c in backbone.out_channels]
        backbone = backbone.model_copy(update={"out_channels": [LITE_STEM_CHANNELS, *channels[1:]]})
        return config.model_copy(update={"width_multiple": 1.0, "backbone": backbone})
    backbone = backbone.model_copy(
        update={
            "num_repeats": [scale_repeats(r, depth) for r in backbone.num_repeats],
            "out_channels": [scale_channels(c, width) for c in backbone.out_channels],
        }
    )
    neck = neck.model_copy(
        update={
            "num_repeats": [scale_repeats(r, depth) for r in neck.num_repeats],
            "out_channels": [scale_channels(c, width) for c in neck.out_channels],
        }
    )
    return config.model_copy(update={"width_multiple": 1.0, "depth_multiple": 1.0, "backbone": backbone, "neck": neck})
