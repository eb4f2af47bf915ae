"""What makes a `model` section one network: the parts that fit together (specification, models 1 to 6)."""

from __future__ import annotations

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.errors import ConfigError

__all__ = ["check_model", "head_strides"]


def head_strides(config: ModelConfig) -> list[int]:
    """Strides of the levels that the head sees, in pixels: three, or four with a P6 backbone and in Lite models."""
    backbone = config.backbone.type
    return [8, 16, 32, 64] if backbone.endswith("6") or backbone.startswith("Lite") else [8, 16, 32]


def check_model(config: ModelConfig, *, fuse_ab: bool, distill_ns: bool) -> None:
    """Refuses parts that do not fit together, and keys that would say one thing and mean another.

    Raises:
        ConfigError: names the key and what it should be.
    """
    backbone, neck, head = config.backbone, config.neck, config.head
    if _family(backbone.type) != _family(neck.type):
        raise ConfigError(f"model.neck.type: {neck.type} does not go with model.backbone.type: {backbone.type}")
    lite, p6, csp = _family(backbone.type)
    if lite != (head.type == "Lite_EffideHead"):
        raise ConfigError(f"model.head.type: {head.type} does not go with model.backbone.type: {backbone.type}")
    if head.strides != head_strides(config) or head.num_layers != len(head.strides):
        strides = head_strides(config)
        raise ConfigError(
            f"model.head.strides: {head.strides} (num_layers: {head.num_layers}); the strides of a network with "
            f"{backbone.type} are {strides} (num_layers: {len(strides)})"
        )
    levels = 6 if p6 else 5
    for key, values, count in (
        ("backbone.num_repeats", backbone.num_repeats, 4 if lite else levels),
        ("backbone.out_channels", backbone.out_channels, 5 if lite else levels),
        ("neck.num_repeats", neck.num_repeats, 0 if lite else 2 * levels - 6),
        ("neck.out_channels", neck.out_channels, 0 if lite else 6),
    ):
        if len(values) != count:
            owner = backbone.type if key.startswith("backbone") else neck.type
            raise ConfigError(f"model.{key}: {len(values)} values; {owner} needs {count or 'none'}")
    for key, given, wanted in (
        ("backbone.csp_e", backbone.csp_e is not None, csp),
        ("neck.csp_e", neck.csp_e is not None, csp),
        ("neck.unified_channels", neck.unified_channels is not None, lite),
    ):
        if given != wanted:
            owner = backbone.type if key.startswith("backbone") else neck.type
            raise ConfigError(f"model.{key}: {owner} " + ("needs it" if wanted else "has no such setting; remove it"))
    bifusion = "BiFPAN" in neck.type
    if backbone.fuse_P2 != bifusion:
        raise ConfigError(
            f"model.backbone.fuse_P2: {str(backbone.fuse_P2).lower()}, but {neck.type} "
            + ("needs the map of stride 4; set it to true" if bifusion else "has no use for that map; set it to false")
        )
    for key, ignored in (
        ("backbone.stage_block_type", not csp and backbone.stage_block_type != "BepC3"),
        ("neck.stage_block_type", not csp and neck.stage_block_type != "BepC3"),
        ("backbone.cspsppf", lite and backbone.cspsppf),
        ("training_mode", lite and config.training_mode != "repvgg"),
        ("head.use_dfl", lite and head.use_dfl),
    ):
        if ignored:
            raise ConfigError(f"model.{key}: has no meaning with {backbone.type}; remove it")
    if neck.stage_block_type != backbone.stage_block_type:
        raise ConfigError(
            f"model.neck.stage_block_type: {neck.stage_block_type}, but model.backbone.stage_block_type is "
            f"{backbone.stage_block_type}; give both the same"
        )
    _check_head(config, plain_only=lite or p6, fuse_ab=fuse_ab, distill_ns=distill_ns)


def _check_head(config: ModelConfig, *, plain_only: bool, fuse_ab: bool, distill_ns: bool) -> None:
    if fuse_ab and distill_ns:
        raise ConfigError("anchor-aided training and distillation exclude each other; leave one of them off")
    for mode, wanted in (("anchor-aided training (fuse_ab)", fuse_ab), ("the head for distill_ns", distill_ns)):
        if wanted and plain_only:
            raise ConfigError(f"{config.type}: {mode} is for networks with three levels; leave it off")
    anchors = config.head.anchors_init
    if fuse_ab and anchors is None:
        raise ConfigError("model.head.anchors_init: is required by anchor-aided training (fuse_ab)")
    if anchors is not None and (
        len(anchors) != config.head.num_layers
        or len({len(a) for a in anchors}) != 1
        or not anchors[0]
        or len(anchors[0]) % 2
    ):
        raise ConfigError(
            f"model.head.anchors_init: {anchors}; expected {config.head.num_layers} lists, each of as many width, "
            "height pairs in pixels"
        )


def _family(part: str) -> tuple[bool, bool, bool]:
    """Whether a backbone or neck is of the Lite, the P6 and the CSP family."""
    return part.startswith("Lite"), part.endswith("6"), part.startswith("CSP")
