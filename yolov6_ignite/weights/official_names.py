"""Names of weights and modules as releases 0.2.0 and 0.3.0 had them, and as 0.4.0 has them.

Specification, models 9.6: a convolution unit got an inner ``block``, the pooling pyramid an inner ``sppf`` or
``cspsppf``, and the predictors of two heads got other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

__all__ = ["renamed_classes", "renaming_to_04", "state_position"]

PYRAMID = re.compile(r"(backbone\.ERBlock_[56]\.2)\.(?=(?:cv\d|m)(?:\.|$))")
PYRAMID_CLASS = {"sppf": "SPPFModule", "cspsppf": "CSPSPPFModule"}
UNIT = re.compile(
    r"(neck\.(?:reduce_layer|downsample)\d|neck\.Bifusion\d\.downsample|detect\.(?:stems|cls_convs|reg_convs)\.\d"
    r"|(?:backbone|neck)\..*\.cv\d)\.(?=(?:conv|bn|act)(?:\.|$))"
)
UNIT_CLASSES = {"Conv", "SimConv", "ConvWrapper", "SimConvWrapper"}
UNIT_OF_ACTIVATION = {"SiLU": "ConvBNSiLU", "ReLU": "ConvBNReLU"}
HEAD_PART = re.compile(r"detect\.(\w+)")
HEAD_ORDER: tuple[str, ...] = ("proj", "proj_conv", "stems", "cls_convs", "reg_convs")
HEAD_ORDER += ("cls_preds", "reg_preds_dist", "reg_preds", "cls_preds_ab", "reg_preds_ab")


def renaming_to_04(keys: Collection[str]) -> Callable[[str], str]:
    """The function from a weight's name, or a module's path, to its name in release 0.4.

    Args:
        keys: all names of the weights. Names of 0.4 map to themselves, also where parts of them look like older ones.
    """
    old_units = "detect.stems.0.conv.weight" in keys
    pyramid = {found[1]: "sppf" for found in map(PYRAMID.match, keys) if found}
    for stage in pyramid:
        if any(key.startswith(f"{stage}.cv3.") for key in keys):
            pyramid[stage] = "cspsppf"
    parts = {found[1] for found in map(HEAD_PART.match, keys) if found}
    heads: dict[str, str] = {}
    if "cls_preds_af" in parts:
        heads |= {"cls_preds_af": "cls_preds", "reg_preds_af": "reg_preds"}
    if "reg_preds_lrtb" in parts:
        heads |= {"reg_preds": "reg_preds_dist", "reg_preds_lrtb": "reg_preds"}

    def rename(path: str) -> str:
        if old_units:
            if found := PYRAMID.match(path):
                path = f"{found[0]}{pyramid[found[1]]}.{path[found.end() :]}"
            if found := UNIT.match(path):
                path = f"{found[0]}block.{path[found.end() :]}"
        if found := HEAD_PART.match(path):
            path = f"detect.{heads.get(found[1], found[1])}{path[found.end() :]}"
        return path

    return rename


def renamed_classes(classes: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, str]:
    """Class names by module path, as release 0.4 has them: old convolution units get today's class.

    Args:
        classes: class names by module path, as stored.
        rename: what :func:`renaming_to_04` returned.
    """
    renamed = {rename(path): name for path, name in classes.items()}
    for path, name in list(renamed.items()):
        if name not in UNIT_CLASSES:
            continue
        if path.endswith(".block"):
            renamed[path] = "ConvModule"  # the inner unit of a wrapper
        else:
            renamed[path] = UNIT_OF_ACTIVATION.get(renamed.get(f"{path}.block.act", ""), name)
            renamed[f"{path}.block"] = "ConvModule"
    for path in [path for path in renamed if path.endswith((".sppf.m", ".cspsppf.m"))]:
        pyramid = path.removesuffix(".m")
        renamed.setdefault(pyramid, PYRAMID_CLASS[pyramid.rpartition(".")[2]])
    return renamed


def state_position(key: str) -> int:
    """Sorts names (stably) into the order of release 0.4, given that only parts of the head are out of order."""
    part = HEAD_PART.match(key)
    if part is None:
        return -1
    return HEAD_ORDER.index(part[1]) if part[1] in HEAD_ORDER else len(HEAD_ORDER)
