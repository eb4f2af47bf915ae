"""The head of a network from the names and shapes of its weights (specification, models 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from yolov6_ignite.config import HeadConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.weights.weight_shapes import WeightShapes, require_equal

__all__ = ["PUBLISHED_ANCHORS", "Head", "read_head"]

PUBLISHED_ANCHORS = [
    [10.0, 13.0, 19.0, 19.0, 33.0, 23.0],
    [30.0, 61.0, 59.0, 59.0, 59.0, 119.0],
    [116.0, 90.0, 185.0, 185.0, 373.0, 326.0],
]
"""Width, height, ... in pixels, a list a level: the same in every published configuration that has anchors."""

ANCHORS_PER_LEVEL = 3


class Head(NamedTuple):
    """What weights show of their head.

    Attributes:
        config: levels and bins; the loss settings are defaults.
        num_classes: number of classes.
        fuse_ab: it has the anchor-aided branch.
        distill_ns: it predicts distances both directly and as distributions.
    """

    config: HeadConfig
    num_classes: int
    fuse_ab: bool
    distill_ns: bool


def read_head(shapes: WeightShapes, channels: Sequence[int]) -> Head:
    """Reads the head.

    Args:
        shapes: all weights.
        channels: of the neck's maps, the finest first.

    Raises:
        ConfigError: a part is missing, unknown, or does not fit the others.
    """
    children = shapes.children("detect")
    lite = "conv_dw_1" in shapes.children("detect.stems.0")
    three_levels = len(channels) == 3 and not lite  # no other head has more than the plain predictors
    fuse_ab = three_levels and "cls_preds_ab" in children
    distill_ns = three_levels and not fuse_ab and "reg_preds_dist" in children

    num_classes, _ = shapes.conv("detect.cls_preds.0")
    outputs = shapes.conv(f"detect.{'reg_preds_dist' if distill_ns else 'reg_preds'}.0")[0]
    if outputs != 4 and (outputs != 68 or lite):
        raise ConfigError(f"detect.reg_preds: predicts {outputs} values; 4 are known, and 68 (16 bins) but for Lite")
    predictors = {"cls_preds": num_classes, "reg_preds": outputs}
    if fuse_ab:
        predictors |= {"cls_preds_ab": ANCHORS_PER_LEVEL * num_classes, "reg_preds_ab": 4 * ANCHORS_PER_LEVEL}
    if distill_ns:
        predictors |= {"reg_preds": 4, "reg_preds_dist": outputs}
    branches = ("stems", "cls_convs", "reg_convs")
    shapes.require_children("detect", (*branches, *predictors, *(() if lite else ("proj", "proj_conv"))))

    for name in (*branches, *predictors):
        levels = shapes.count(f"detect.{name}")
        if levels != len(channels):
            raise ConfigError(f"detect.{name}: has {levels} levels, the neck {len(channels)}")
        for level, width in enumerate(channels):
            path = f"detect.{name}.{level}"
            if name in branches:
                path += ".conv_pw_1" if lite else ".block.conv"
            found, inputs = shapes.conv(path)
            require_equal(path, inputs, width)
            require_equal(path, found, predictors.get(name, width))
    config = HeadConfig.model_validate(
        {
            "type": "Lite_EffideHead" if lite else "EffiDeHead",
            "num_layers": len(channels),
            "strides": [8 << level for level in range(len(channels))],
            "anchors_init": PUBLISHED_ANCHORS if fuse_ab else None,
            "use_dfl": outputs == 68,
            "reg_max": outputs // 4 - 1,
        }
    )
    return Head(config, num_classes, fuse_ab, distill_ns)
