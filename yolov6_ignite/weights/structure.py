"""The structure of a network from the names and shapes of its weights (specification, models 3 to 6).

What decides nothing (a batch norm inside a block, say) is not read: it is checked when the weights are loaded into
the network that was built from the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from yolov6_ignite.config import BackboneConfig, NeckConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.scaling import LITE_STEM_CHANNELS, round_channels
from yolov6_ignite.weights.structure_head import Head, read_head
from yolov6_ignite.weights.weight_shapes import FoundStage, WeightShapes, read_stage, require_equal

__all__ = ["Structure", "structure_of"]

BLOCK_MARKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rbr_1x1.conv", "rbr_dense.conv", ("repvgg",)),
    ("rbr_1x1", "rbr_dense.conv", ("qarepvggv2", "qarepvgg")),
    ("scale_conv", "conv", ("hyper_search",)),
    ("block.conv", "block.conv", ("conv_silu", "conv_relu")),
    ("conv", "conv", ("repopt",)),
)
"""What tells a basic block from those below, its 3x3 convolution, and the training modes that have such blocks."""

NECK_STAGES = {  # by number of levels: top down, bottom up, and the downsampling before each of the latter
    3: (("Rep_p4", "Rep_p3"), ("Rep_n3", "Rep_n4"), ("downsample2", "downsample1")),
    4: (
        ("Rep_p5", "Rep_p4", "Rep_p3"),
        ("Rep_n4", "Rep_n5", "Rep_n6"),
        ("downsample2", "downsample1", "downsample0"),
    ),
}


class Structure(NamedTuple):
    """What weights show of their network; numbers are those that are built, with both multiples 1.

    Attributes:
        training_modes: those whose blocks have such weights, the most usual first.
        backbone: its stages.
        neck: its stages.
        head: its predictors.
    """

    training_modes: tuple[str, ...]
    backbone: BackboneConfig
    neck: NeckConfig
    head: Head


def structure_of(state: Mapping[str, Tensor]) -> Structure:
    """Reads the structure of a network in its training form.

    Args:
        state: weights by their published names; only shapes are looked at.

    Raises:
        ConfigError: a part is missing, unknown, or does not fit the others; the message names it.
    """
    shapes = WeightShapes(state)
    shapes.require_children("", ("backbone", "neck", "detect"))
    if not any(key.startswith("backbone.") and key.endswith(".running_var") for key in state):
        raise ConfigError("backbone: has no batch norms; it is fused for deployment: use the weights from before that")
    modes: tuple[str, ...] = ("repvgg",)
    if "conv_0" in shapes.children("backbone"):
        backbone, neck, channels = _lite(shapes)
    else:
        modes, dense = _basic_block(shapes)
        backbone = _backbone(shapes, dense)
        neck, channels = _neck(shapes, dense, backbone.out_channels)
        if (backbone.csp_e is None) != (neck.csp_e is None):
            raise ConfigError(f"neck: {neck.type} does not go with {backbone.type}")
    return Structure(modes, backbone, neck, read_head(shapes, channels))


def _basic_block(shapes: WeightShapes) -> tuple[tuple[str, ...], str]:
    for mark, dense, modes in BLOCK_MARKS:
        if f"backbone.stem.{mark}.weight" in shapes:
            return modes, dense
    raise ConfigError("backbone.stem: is none of the known blocks")


def _backbone(shapes: WeightShapes, dense: str) -> BackboneConfig:
    last = 6 if "ERBlock_6" in shapes.children("backbone") else 5
    shapes.require_children("backbone", ("stem", *(f"ERBlock_{number}" for number in range(2, last + 1))))
    channels = [shapes.conv(f"backbone.stem.{dense}")[0]]
    stages = []
    for number in range(2, last + 1):
        path = f"backbone.ERBlock_{number}"
        shapes.require_children(path, ("0", "1", "2") if number == last else ("0", "1"))
        outputs, inputs = shapes.conv(f"{path}.0.{dense}")
        require_equal(f"{path}.0", inputs, channels[-1])
        stage = read_stage(shapes, f"{path}.1", dense)
        require_equal(f"{path}.1", stage.inputs, outputs)
        require_equal(f"{path}.1", stage.outputs, outputs)
        channels.append(outputs)
        stages.append(stage)
    cspsppf = "cspsppf" in shapes.children(f"{path}.2")
    if set(shapes.children(f"{path}.2")) != {"cspsppf" if cspsppf else "sppf"}:
        raise ConfigError(f"{path}.2: is none of the known pooling layers (sppf, cspsppf)")
    csp = _is_csp("backbone", stages)
    names = ("CSPBepBackbone", "CSPBepBackbone_P6") if csp else ("EfficientRep", "EfficientRep6")
    return BackboneConfig.model_validate(
        {
            "type": names[last - 5],
            "num_repeats": [1, *(stage.repeats for stage in stages)],
            "out_channels": channels,
            "fuse_P2": "Bifusion0" in shapes.children("neck"),  # the only neck that reads the map of stride 4
            "cspsppf": cspsppf,
            **_csp_keys("backbone", stages),
        }
    )


def _neck(shapes: WeightShapes, dense: str, backbone: Sequence[int]) -> tuple[NeckConfig, list[int]]:
    """The neck, and the channels of its maps from the finest to the coarsest."""
    levels = len(backbone) - 2
    top_names, bottom_names, down_names = NECK_STAGES[levels]
    bifusion = "Bifusion0" in shapes.children("neck")
    reductions = range(levels - 1)
    joins = [f"{'Bifusion' if bifusion else 'upsample'}{i}" for i in reductions]
    reduce_names = [f"reduce_layer{i}" for i in reductions]
    shapes.require_children("neck", (*reduce_names, *joins, *top_names, *bottom_names, *down_names))

    reduced, top, down, bottom = [], [], [], []
    inputs = backbone[-1]
    for i, name in enumerate(top_names):
        path, lateral = f"neck.{reduce_names[i]}", backbone[-2 - i]
        outputs, found = shapes.conv(f"{path}.block.conv")
        require_equal(path, found, inputs)
        if bifusion:
            for conv, source in (("cv1", lateral), ("cv2", backbone[-3 - i])):
                require_equal(f"neck.{joins[i]}.{conv}", shapes.conv(f"neck.{joins[i]}.{conv}.block.conv")[1], source)
        stage = read_stage(shapes, f"neck.{name}", dense)
        require_equal(f"neck.{name}", stage.inputs, outputs if bifusion else outputs + lateral)
        require_equal(f"neck.{name}", stage.outputs, outputs)
        reduced.append(outputs)
        top.append(stage)
        inputs = outputs
    for i, name in enumerate(bottom_names):
        outputs, found = shapes.conv(f"neck.{down_names[i]}.block.conv")
        require_equal(f"neck.{down_names[i]}", found, inputs)
        stage = read_stage(shapes, f"neck.{name}", dense)
        require_equal(f"neck.{name}", stage.inputs, outputs + reduced[-1 - i])
        if levels == 4:
            require_equal(f"neck.{down_names[i]}", outputs, inputs)  # has no number of its own there
        down.append(outputs)
        bottom.append(stage)
        inputs = stage.outputs

    stages = [*top, *bottom]
    csp = _is_csp("neck", stages)
    suffix = "" if levels == 3 else "_P6" if csp else "6"
    ends = [stage.outputs for stage in bottom]
    numbers = [*reduced, *ends] if levels == 4 else [*reduced, down[0], ends[0], down[1], ends[1]]
    config = NeckConfig.model_validate(
        {
            "type": f"{'CSP' if csp else ''}Rep{'BiFPAN' if bifusion else 'PAN'}Neck{suffix}",
            "num_repeats": [stage.repeats for stage in stages],
            "out_channels": numbers,
            **_csp_keys("neck", stages),
        }
    )
    return config, [top[-1].outputs, *ends]


def _is_csp(part: str, stages: Sequence[FoundStage]) -> bool:
    kinds = {stage.kind for stage in stages}
    if len(kinds) > 1:
        raise ConfigError(f"{part}: mixes several kinds of stages ({', '.join(sorted(kinds))})")
    return "RepBlock" not in kinds


def _csp_keys(part: str, stages: Sequence[FoundStage]) -> dict[str, float | str]:
    """`csp_e` and `stage_block_type` of CSP stages: the ratio that truncates to the hidden channels of each."""
    if stages[0].kind == "RepBlock":
        return {}
    ratio = max(stage.hidden / stage.outputs for stage in stages)
    if any(int(stage.outputs * ratio) < stage.hidden for stage in stages):
        ratio = math.nextafter(ratio, 1)  # the quotient was rounded down
    if ratio > 1 or any(int(stage.outputs * ratio) != stage.hidden for stage in stages):
        found = ", ".join(f"{stage.hidden} of {stage.outputs}" for stage in stages)
        raise ConfigError(f"{part}: no csp_e gives the hidden channels of every stage ({found})")
    return {"csp_e": ratio, "stage_block_type": stages[0].kind}


def _lite(shapes: WeightShapes) -> tuple[BackboneConfig, NeckConfig, list[int]]:
    """Backbone, neck, and the channels of the neck's maps."""
    shapes.require_children("backbone", ("conv_0", *(f"lite_effiblock_{number}" for number in range(1, 5))))
    channels, repeats = [shapes.conv("backbone.conv_0.block.conv")[0]], []
    require_equal("backbone.conv_0", channels[0], LITE_STEM_CHANNELS)
    for number in range(1, 5):
        path = f"backbone.lite_effiblock_{number}"
        repeats.append(shapes.count(path))
        outputs, _ = shapes.conv(f"{path}.0.conv_pw_3.block.conv")
        hidden, inputs = shapes.conv(f"{path}.0.conv_pw_2.block.conv")
        require_equal(f"{path}.0", inputs, channels[-1])
        require_equal(f"{path}.0.conv_pw_2", hidden, round_channels(outputs // 2, 8) // 2)  # scale_size is 0.5
        channels.append(outputs)
    backbone = BackboneConfig(type="Lite_EffiBackbone", num_repeats=repeats, out_channels=channels)

    reduce_names = [f"reduce_layer{i}" for i in range(3)]
    stages = ("Csp_p4", "Csp_p3", "Csp_n3", "Csp_n4")
    shapes.require_children("neck", (*reduce_names, *stages, "downsample2", "downsample1", "p6_conv_1", "p6_conv_2"))
    unified = shapes.conv("neck.reduce_layer0.block.conv")[0]
    for i, name in enumerate(reduce_names):
        outputs, inputs = shapes.conv(f"neck.{name}.block.conv")
        require_equal(f"neck.{name}", inputs, channels[-1 - i])
        require_equal(f"neck.{name}", outputs, unified)
    return backbone, NeckConfig(type="Lite_EffiNeck", unified_channels=unified), [unified] * 4
