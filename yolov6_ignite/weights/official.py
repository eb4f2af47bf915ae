"""Weights of official YOLOv6 releases, which are stored as whole pickled modules, as tensors by name.

Such a file is a dictionary with ``model`` and ``ema``, each a tree of modules in fp16 or None (specification,
models 9.3). :mod:`yolov6_ignite.restricted_pickle` builds the tree from inert stand-ins; the weights are
collected from it in the order of ``state_dict()`` and get the names of release 0.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov6_ignite.restricted_pickle import StandIn
from yolov6_ignite.torch_archive import refuse
from yolov6_ignite.weights.official_names import renamed_classes, renaming_to_04, state_position

__all__ = ["OfficialWeights", "official_weights"]

MAX_MEMBERS = 50_000  # modules, parameters and buffers; the largest network has 8,000
MAX_PATH_LENGTH = 200  # the longest has 60; bounds the depth, too
BIAS, RUNNING_MEAN = ".conv.bias", ".bn.running_mean"


@dataclass(frozen=True)
class OfficialWeights:
    """What an official weight file says of a network.

    Attributes:
        state: weights by their names of release 0.4, in the order of ``state_dict()``; floating-point ones in fp32,
            all with memory of their own.
        classes: class name (``RepVGGBlock``) by module path ("" is the network), with paths as in `state`.
        names: class names that the trainer stored, None when there are none.
        num_classes: number of classes that the head predicts.
    """

    state: dict[str, Tensor]
    classes: dict[str, str]
    names: list[str] | None
    num_classes: int


def official_weights(path: Path, content: Any) -> OfficialWeights:
    """The weights in an official file; the averaged ones where it has any.

    Args:
        path: a file of release 0.2.0, 0.3.0 or 0.4.0, or of a training with one of them.
        content: what :func:`~yolov6_ignite.restricted_pickle.read_archive` found in it.

    Raises:
        ConfigError: it holds no detector, or one that was fused or converted.
    """
    models = [content.get(key) for key in ("ema", "model")] if isinstance(content, dict) else []
    roots = [model for model in models if model is not None]
    if not roots or not all(isinstance(root, StandIn) for root in roots):
        refuse(
            path,
            "is not a checkpoint of this project, and no official weight file either (it holds no network under 'ema' "
            "or 'model')",
        )
    state, classes = _Walk(path).collect(roots[0])
    rename = renaming_to_04(state)
    renamed = {rename(key): value for key, value in state.items()}
    if len(renamed) != len(state):
        refuse(path, "has two weights for one name of release 0.4")
    state = _with_projection(_without_convolution_biases(path, renamed))
    predictor = state.get("detect.cls_preds.0.weight")
    if predictor is None or predictor.dim() != 4:
        refuse(path, "has no detection head (no detect.cls_preds.0.weight)")
    return OfficialWeights(
        state={key: state[key] for key in sorted(state, key=state_position)},
        classes=renamed_classes(classes, rename),
        names=_class_names(path, roots, len(predictor)),
        num_classes=len(predictor),
    )


class _Walk:
    """Collects weights and class names from a tree of stand-ins, within bounds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_left = path.stat().st_size  # what weights may take, however often the file refers to one
        self.members_left = MAX_MEMBERS
        self.state: dict[str, Tensor] = {}
        self.classes: dict[str, str] = {}

    def collect(self, root: StandIn) -> tuple[dict[str, Tensor], dict[str, str]]:
        self._visit(root, "")
        return self.state, self.classes

    def _visit(self, module: StandIn, name: str) -> None:
        self.classes[name] = module.class_name.rpartition(".")[2]
        prefix = f"{name}." if name else ""
        transient = self._attribute(module, name, "_non_persistent_buffers_set", set)
        for key, value in self._members(module, name, "_parameters"):
            self._add(prefix + key, value)
        for key, value in self._members(module, name, "_buffers"):
            if key not in transient:
                self._add(prefix + key, value)
        for key, value in self._members(module, name, "_modules"):
            if not isinstance(value, StandIn):
                refuse(self.path, f"{prefix}{key}: is no module")
            self._visit(value, prefix + key)

    def _attribute(self, module: StandIn, name: str, attribute: str, kind: type) -> Any:
        state = module.state if module.state is not None else {}
        value = state.get(attribute, kind()) if isinstance(state, dict) else None
        if not isinstance(value, kind):
            refuse(self.path, f"{name or 'the network'}: is damaged ({attribute} is no {kind.__name__})")
        return value

    def _members(self, module: StandIn, name: str, attribute: str) -> Iterator[tuple[str, Any]]:
        """The members that are there; torch stores None for one that a layer does without."""
        for key, value in self._attribute(module, name, attribute, dict).items():
            self.members_left -= 1
            if self.members_left < 0:
                refuse(self.path, f"has more than {MAX_MEMBERS} modules, parameters and buffers")
            if not isinstance(key, str) or not key or "." in key or not key.isprintable():
                refuse(self.path, f"{name or 'the network'}: has a member with an impossible name")
            if len(name) + len(key) > MAX_PATH_LENGTH:
                refuse(self.path, f"{name[: MAX_PATH_LENGTH // 4]}...: has modules nested without end")
            if value is not None:
                yield key, value

    def _add(self, key: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            refuse(self.path, f"{key}: is no tensor")
        self.bytes_left -= value.numel() * value.element_size()
        if self.bytes_left < 0 or key in self.state:
            refuse(self.path, f"{key}: is there twice, or its weights refer to one another")
        kept = value.float() if value.is_floating_point() else value
        self.state[key] = kept.contiguous() if kept is not value else kept.clone(memory_format=torch.contiguous_format)


def _without_convolution_biases(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moves a bias before a batch norm into its mean: ``(x + b) - mean = x - (mean - b)`` (models 9.6)."""
    folded = dict(state)
    for key, value in state.items():
        if ".rbr_reparam." in key:
            refuse(path, f"{key}: was converted for deployment and cannot be trained or fused again")
        if key.endswith(BIAS):
            mean = state.get(key.removesuffix(BIAS) + RUNNING_MEAN)
            if mean is None or mean.shape != value.shape:
                refuse(path, f"{key}: is not followed by its batch norm: it was fused into the convolution")
            folded[key.removesuffix(BIAS) + RUNNING_MEAN] = mean - folded.pop(key)
    return folded


def _with_projection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds the constant projection of box distributions to a head that was stored without it."""
    if "detect.stems.0.block.conv.weight" not in state:  # the head of the lite networks has none
        return state
    bins = torch.linspace(0, 16, 17)
    return {"detect.proj": bins, "detect.proj_conv.weight": bins.reshape(1, 17, 1, 1).clone(), **state}


def _class_names(path: Path, roots: list[StandIn], num_classes: int) -> list[str] | None:
    """The class names that the first of the networks carries."""
    states = [root.state for root in roots if isinstance(root.state, dict)]
    stored = next((state["names"] for state in states if state.get("names") is not None), None)
    if stored is None:
        return None
    if isinstance(stored, dict):
        stored = [stored.get(index) for index in range(len(stored))]
    if not isinstance(stored, list | tuple) or not all(type(name) in (str, int) for name in stored):
        refuse(path, "has class names that are no list of texts")
    if len(stored) != num_classes:
        refuse(path, f"has {len(stored)} class names and a head for {num_classes} classes")
    return [str(name) for name in stored]
