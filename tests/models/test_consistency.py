"""Which model sections are refused, and with what message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config, recipe_names
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.models.consistency import check_model, head_strides

MakeConfig = Callable[..., ModelConfig]

LITE = "yolov6_lite/yolov6_lite_s"
STRIDES_P6 = {"strides": [8, 16, 32, 64], "num_layers": 4}


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_consistent(recipe: str) -> None:
    config = load_config(recipe).model
    check_model(config, fuse_ab=False, distill_ns=False)
    assert config.head.strides == head_strides(config)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        # families that do not go together
        ("yolov6n", {"neck": {"type": "CSPRepBiFPANNeck"}}, r"neck\.type: CSPRepBiFPANNeck .* EfficientRep$"),
        ("yolov6n", {"neck": {"type": "RepBiFPANNeck6"}}, r"neck\.type: RepBiFPANNeck6 .* EfficientRep$"),
        ("yolov6n", {"backbone": {"type": "EfficientRep6"}}, r"neck\.type: RepBiFPANNeck .* EfficientRep6$"),
        ("yolov6m", {"backbone": {"type": "EfficientRep"}}, r"neck\.type: CSPRepBiFPANNeck .* EfficientRep$"),
        ("yolov6m6", {"neck": {"type": "RepBiFPANNeck6"}}, r"neck\.type: RepBiFPANNeck6 .* CSPBepBackbone_P6$"),
        (LITE, {"neck": {"type": "RepPANNeck"}}, r"neck\.type: RepPANNeck .* Lite_EffiBackbone$"),
        (LITE, {"head": {"type": "EffiDeHead"}}, r"head\.type: EffiDeHead .* Lite_EffiBackbone$"),
        ("yolov6n", {"head": {"type": "Lite_EffideHead"}}, r"head\.type: Lite_EffideHead .* EfficientRep$"),
        # strides
        ("yolov6n", {"head": {"strides": [4, 8, 16]}}, r"head\.strides: \[4, 8, 16\].* are \[8, 16, 32\]"),
        ("yolov6n", {"head": STRIDES_P6}, r"head\.strides: \[8, 16, 32, 64\].* are \[8, 16, 32\]"),
        ("yolov6n", {"head": {"num_layers": 4}}, r"head\.strides: .*num_layers: 4.*num_layers: 3"),
        ("yolov6n6", {"head": {"strides": [8, 16, 32], "num_layers": 3}}, r"head\.strides: .* are \[8, 16, 32, 64\]"),
        (LITE, {"head": {"strides": [8, 16, 32], "num_layers": 3}}, r"head\.strides: .* are \[8, 16, 32, 64\]"),
        # numbers of values
        ("yolov6n", {"backbone": {"num_repeats": [1, 6, 12, 18]}}, r"backbone\.num_repeats: 4 values.* needs 5"),
        ("yolov6n", {"backbone": {"out_channels": [64] * 6}}, r"backbone\.out_channels: 6 values.* needs 5"),
        ("yolov6n", {"neck": {"num_repeats": [12] * 6}}, r"neck\.num_repeats: 6 values.*RepBiFPANNeck needs 4"),
        ("yolov6n", {"neck": {"out_channels": [256, 128]}}, r"neck\.out_channels: 2 values.* needs 6"),
        ("yolov6n6", {"backbone": {"num_repeats": [1] * 5}}, r"backbone\.num_repeats: 5 values; EfficientRep6 needs 6"),
        ("yolov6n6", {"neck": {"num_repeats": [1] * 4}}, r"neck\.num_repeats: 4 values; RepBiFPANNeck6 needs 6"),
        (LITE, {"backbone": {"num_repeats": [1] * 5}}, r"backbone\.num_repeats: 5 values.* needs 4"),
        (LITE, {"backbone": {"out_channels": [24, 32]}}, r"backbone\.out_channels: 2 values.* needs 5"),
        (LITE, {"neck": {"num_repeats": [3]}}, r"neck\.num_repeats: 1 values; Lite_EffiNeck needs none"),
        (LITE, {"neck": {"out_channels": [96]}}, r"neck\.out_channels: 1 values; Lite_EffiNeck needs none"),
        # settings of one family only
        ("yolov6m", {"backbone": {"csp_e": None}}, r"backbone\.csp_e: CSPBepBackbone needs it"),
        ("yolov6m", {"neck": {"csp_e": None}}, r"neck\.csp_e: CSPRepBiFPANNeck needs it"),
        ("yolov6n", {"backbone": {"csp_e": 0.5}}, r"backbone\.csp_e: EfficientRep has no such setting; remove it"),
        ("yolov6n", {"neck": {"csp_e": 0.5}}, r"neck\.csp_e: RepBiFPANNeck has no such setting; remove it"),
        (LITE, {"neck": {"unified_channels": None}}, r"neck\.unified_channels: Lite_EffiNeck needs it"),
        ("yolov6n", {"neck": {"unified_channels": 96}}, r"neck\.unified_channels: RepBiFPANNeck has no such setting"),
        # the map of stride 4
        (
            "yolov6n",
            {"backbone": {"fuse_P2": False}},
            r"backbone\.fuse_P2: false, but RepBi.* needs .* set it to true",
        ),
        (
            "yolov6n",
            {"neck": {"type": "RepPANNeck"}},
            r"backbone\.fuse_P2: true, but RepPAN.* no use .* set it to false",
        ),
        ("yolov6n6", {"neck": {"type": "RepPANNeck6"}}, r"backbone\.fuse_P2: true, but RepPANNeck6 has no use"),
        (LITE, {"backbone": {"fuse_P2": True}}, r"backbone\.fuse_P2: true, but Lite_EffiNeck has no use"),
        # settings that would be ignored
        ("yolov6n", {"backbone": {"stage_block_type": "MBLABlock"}}, r"backbone\.stage_block_type: has no meaning"),
        ("yolov6n", {"neck": {"stage_block_type": "MBLABlock"}}, r"neck\.stage_block_type: has no meaning"),
        (LITE, {"backbone": {"cspsppf": True}}, r"backbone\.cspsppf: has no meaning with Lite_EffiBackbone; remove it"),
        (LITE, {"training_mode": "conv_relu"}, r"training_mode: has no meaning with Lite_EffiBackbone"),
        (LITE, {"head": {"use_dfl": True, "reg_max": 16}}, r"head\.use_dfl: has no meaning with Lite_EffiBackbone"),
        # anchors
        ("yolov6n", {"head": {"anchors_init": [[10, 13]]}}, r"head\.anchors_init: \[\[10.*expected 3 lists"),
        (
            "yolov6n",
            {"head": {"anchors_init": [[10, 13]] * 2 + [[1, 2, 3, 4]]}},
            r"head\.anchors_init: .*as many wid",
        ),
        ("yolov6n", {"head": {"anchors_init": [[10, 13, 19]] * 3}}, r"head\.anchors_init: .*height pairs in pixels"),
    ],
)
def test_contradictions_are_refused(
    recipe: str, changes: dict[str, Any], message: str, model_config: MakeConfig
) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{message}"):
        build_model(model_config(recipe, **changes), 80)


@pytest.mark.parametrize("recipe", ["yolov6n6", "yolov6m6", LITE])
@pytest.mark.parametrize(
    ("mode", "message"), [("fuse_ab", r"anchor-aided training \(fuse_ab\)"), ("distill_ns", "the head for distill_ns")]
)
def test_heads_for_three_levels_are_refused_elsewhere(
    recipe: str, mode: str, message: str, model_config: MakeConfig
) -> None:
    config = model_config(recipe)
    with pytest.raises(ConfigError, match=f"^{config.type}: {message} is for networks with three levels; leave it off"):
        build_model(config, 80, **{mode: True})


def test_anchor_aided_training_needs_anchors(model_config: MakeConfig) -> None:
    config = model_config(head={"anchors_init": None})
    build_model(config, 1)
    with pytest.raises(ConfigError, match=r"model\.head\.anchors_init: is required by anchor-aided training"):
        build_model(config, 1, fuse_ab=True)


def test_both_training_heads_at_once_are_refused(yolov6n_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="anchor-aided training and distillation exclude each other"):
        build_model(yolov6n_config, 80, fuse_ab=True, distill_ns=True)
