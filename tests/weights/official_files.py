"""Writes files in the format of the official releases: whole pickled modules of classes named ``yolov6.*``."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from yolov6_ignite.restricted_pickle import read_archive
from yolov6_ignite.weights.official import OfficialWeights, official_weights

BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}


class Yolov6Classes:
    """Throw-away modules ``yolov6.*`` in ``sys.modules``, without which pickle would not write their names."""

    def make(self, name: str, *bases: type, module: str = "yolov6.layers.common", **members: Any) -> type:
        """A class of that name, by default an empty ``nn.Module``."""
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        holder = sys.modules[module]
        if not hasattr(holder, name):
            setattr(holder, name, type(name, bases or (nn.Module,), {"__module__": module, **members}))
        return getattr(holder, name)


@contextmanager
def yolov6_classes() -> Iterator[Yolov6Classes]:
    """Lends :class:`Yolov6Classes` and takes them out of ``sys.modules`` again."""
    assert "yolov6" not in sys.modules
    try:
        yield Yolov6Classes()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "yolov6"]:
            del sys.modules[name]


def module_tree(make: Yolov6Classes, state: Mapping[str, Tensor], classes: Mapping[str, str]) -> nn.Module:
    """A tree of empty modules that holds `state`; `classes` names the classes of some paths ("" is the root)."""

    def new(path: str) -> nn.Module:
        return make.make(classes.get(path, "ConvModule"))()

    root = new("")
    for key, value in state.items():
        module, *parts = root, *key.split(".")
        for depth, part in enumerate(parts[:-1], 1):
            if part not in module._modules:
                module.add_module(part, new(".".join(parts[:depth])))
            module = module._modules[part]
        if parts[-1] in BUFFERS:
            module.register_buffer(parts[-1], value)
        else:
            module.register_parameter(parts[-1], nn.Parameter(value, requires_grad=False))
    return root


def save_official(
    path: Path, state: Mapping[str, Tensor], classes: Mapping[str, str] | None = None, **content: Any
) -> Path:
    """Writes `state` as an official weight file; `content` replaces or adds keys of its outer dictionary.

    ``names`` is the model's attribute of that name; a mapping given for ``ema`` becomes a module tree, too.
    """
    names = content.pop("names", None)
    with yolov6_classes() as make:
        model = module_tree(make, state, classes or {})
        if names is not None:
            model.names = names
        if isinstance(content.get("ema"), Mapping):
            content["ema"] = module_tree(make, content["ema"], classes or {}).half()
        whole = {"model": model.half(), "ema": None, "updates": None, "optimizer": None, "epoch": -1, **content}
        torch.save(whole, path)
    return path


def read_official(path: Path) -> OfficialWeights:
    return official_weights(path, read_archive(path))


def tiny_state() -> dict[str, Tensor]:
    """Weights of a head for two classes on one level, and of a block before it, in the order of release 0.4."""
    random = torch.Generator().manual_seed(0)
    shapes = {
        "backbone.stem.rbr_dense.conv.weight": (4, 3, 3, 3),
        "backbone.stem.rbr_dense.bn.weight": (4,),
        "backbone.stem.rbr_dense.bn.bias": (4,),
        "backbone.stem.rbr_dense.bn.running_mean": (4,),
        "backbone.stem.rbr_dense.bn.running_var": (4,),
        "detect.proj": (17,),
        "detect.proj_conv.weight": (1, 17, 1, 1),
        "detect.stems.0.block.conv.weight": (4, 4, 1, 1),
        "detect.stems.0.block.bn.weight": (4,),
        "detect.stems.0.block.bn.running_mean": (4,),
        "detect.cls_preds.0.weight": (2, 4, 1, 1),
        "detect.cls_preds.0.bias": (2,),
        "detect.reg_preds.0.weight": (4, 4, 1, 1),
        "detect.reg_preds.0.bias": (4,),
    }
    return {key: torch.rand(shape, generator=random).half().float() for key, shape in shapes.items()}


def write_zip(path: Path, pickled: bytes, records: Mapping[str, bytes] | None = None) -> Path:
    """Writes a torch zip file around the bytes of a pickle; `records` are named as below the archive's prefix."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", **(records or {})}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def unzip(data: bytes) -> dict[str, bytes]:
    """The records of a torch zip file, named as below its prefix."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
