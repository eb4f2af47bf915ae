"""Which network weights belong to: its configuration, and the shipped recipe that has it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config, recipe_names
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.csp import bottlenecks
from yolov6_ignite.models.scaling import scaled
from yolov6_ignite.weights.structure import structure_of
from yolov6_ignite.weights.structure_head import PUBLISHED_ANCHORS

__all__ = ["Recognised", "recognise"]

MODE_OF_ACTIVATION = {"SiLU": "conv_silu", "ReLU": "conv_relu"}
MODE_OF_BLOCK = {
    "ConvBNSiLU": "conv_silu",
    "ConvBNReLU": "conv_relu",
    "ConvWrapper": "conv_silu",  # this and the next: releases 0.2.0 and 0.3.0
    "SimConvWrapper": "conv_relu",
    "QARepVGGBlock": "qarepvgg",
    "QARepVGGBlockV2": "qarepvggv2",
}


@dataclass(frozen=True)
class Recognised:
    """What weights were recognised as.

    Attributes:
        model: the `model` section. It is the recipe's where there is one, with the `use_dfl`, `reg_max` and, for
            `fuse_ab`, anchors that the weights need; otherwise both multiples are 1.
        num_classes: number of classes.
        fuse_ab: the head has the anchor-aided branch.
        distill_ns: the head predicts distances both directly and as distributions.
        recipe: the shipped recipe with this network, None when there is none.
    """

    model: ModelConfig
    num_classes: int
    fuse_ab: bool
    distill_ns: bool
    recipe: str | None


def recognise(state: Mapping[str, Tensor], *, classes: Mapping[str, str] = {}) -> Recognised:
    """Finds the network that weights belong to.

    Names and shapes leave two things open: the activation of plain convolutions (`conv_silu`, `conv_relu`) and the
    version of QARepVGG blocks. `classes` decides them. Without it the first recipe that fits does, and where none
    fits `conv_silu` or `qarepvggv2`: then the result may be wrong in this, and no check of the weights can tell.

    Args:
        state: weights by their published names; only shapes are looked at.
        classes: class names by module path, of weights that were stored with their modules.

    Raises:
        ConfigError: a part is missing, unknown, or does not fit the others; the message names it, but not the file.
    """
    structure = structure_of(state)
    head = structure.head
    modes = structure.training_modes
    if len(modes) > 1:
        modes = _decided(modes, classes)
    inferred = ModelConfig.model_validate(
        {
            "type": "YOLOv6-lite" if head.config.type == "Lite_EffideHead" else "YOLOv6",
            "training_mode": modes[0],
            "backbone": structure.backbone,
            "neck": structure.neck,
            "head": head.config,
        }
    )
    if scaled(inferred) != inferred:
        raise ConfigError("backbone, neck: have numbers of channels that no width_multiple gives")
    model, recipe = inferred, None
    for name in _architecture_recipes():
        shipped = _shipped_model(name)
        if shipped.training_mode in modes and _network(shipped) == _network(inferred):
            changes: dict[str, Any] = {"use_dfl": head.config.use_dfl, "reg_max": head.config.reg_max}
            if head.fuse_ab and shipped.head.anchors_init is None:
                changes["anchors_init"] = PUBLISHED_ANCHORS
            model, recipe = shipped.model_copy(update={"head": shipped.head.model_copy(update=changes)}), name
            break
    return Recognised(model, head.num_classes, head.fuse_ab, head.distill_ns, recipe)


def _decided(modes: tuple[str, ...], classes: Mapping[str, str]) -> tuple[str, ...]:
    """The mode that class names tell, or all of them when they tell nothing."""
    if "conv_silu" in modes:
        below = {path: name for path, name in classes.items() if path.startswith("backbone.stem.")}
        for path, name in below.items():
            if name in MODE_OF_ACTIVATION:
                return (MODE_OF_ACTIVATION[name],)
            if path.endswith(".act"):
                raise ConfigError(f"{path}: is a {name}; ReLU and SiLU are known")
    block = classes.get("backbone.stem")
    if block is None:
        return modes
    if MODE_OF_BLOCK.get(block) not in modes:
        raise ConfigError(f"backbone.stem: is a {block}, which its weights do not look like")
    return (MODE_OF_BLOCK[block],)


def _architecture_recipes() -> Iterator[str]:
    """Recipes with a network of their own, the best known first; the others differ from these in training alone."""
    names = [
        name
        for name in recipe_names()
        if name.rpartition("/")[2].startswith("yolov6") and not name.endswith(("_finetune", "_ptq", "_qat"))
    ]
    return iter(sorted(names, key=lambda name: (name.startswith("experiment/"), "/" in name)))


@functools.cache
def _shipped_model(recipe: str) -> ModelConfig:
    return load_config(recipe).model


def _network(model: ModelConfig) -> tuple[object, ...]:
    """What weights show of a configuration, apart from the basic block and the predictors' size."""
    model = scaled(model)
    parts: list[object] = [model.head.type, model.head.num_layers, model.backbone.cspsppf, model.neck.unified_channels]
    for part in (model.backbone, model.neck):
        parts += [part.type, part.out_channels]
        if "CSP" not in part.type or part.csp_e is None:
            parts.append(part.num_repeats)
        else:
            hidden = [int(channels * part.csp_e) for channels in part.out_channels]
            parts += [part.stage_block_type, hidden, [bottlenecks(repeats) for repeats in part.num_repeats]]
    return tuple(parts)
