"""Graphs as TorchScript."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from yolov6_ignite.exporting.graphs import ExportGraph

__all__ = ["METADATA_FILE", "build_torchscript"]

METADATA_FILE = "metadata.json"


def build_torchscript(graph: ExportGraph, image_size: tuple[int, int], metadata: Mapping[str, str]) -> bytes:
    """Traces a graph; images of any number and size can be given to the result, on the device that it is loaded to.

    Args:
        graph: in eval mode, in the precision that the file is to have.
        image_size: (height, width) in pixels.
        metadata: put into the file as ``metadata.json``: ``torch.jit.load(path, _extra_files={"metadata.json": ""})``.

    Returns:
        The file's content.
    """
    images = torch.zeros(2, 3, *image_size, dtype=graph.input_dtype)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # every Python number in the graph is reported; the check shows what matters
        traced = torch.jit.trace(graph, (images,), check_trace=False)
        _follow_images(traced)
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return buffer.getvalue()


def _follow_images(traced: torch.jit.ScriptModule) -> None:
    """Lets new tensors, as anchors are, be made where the inputs are; a trace has the device that it was made on."""
    for module in traced.modules():
        try:
            graph: Any = module.graph
        except RuntimeError:
            continue  # it has no graph: its parts are called, and not itself
        for node in graph.findAllNodes("prim::Constant"):
            if node.output().type().kind() != "DeviceObjType":
                continue
            tensor = next(value for value in graph.inputs() if value.type().kind() == "TensorType")
            device = graph.create("prim::device", [tensor])
            device.output().setType(node.output().type())
            device.insertBefore(node)
            node.output().replaceAllUsesWith(device.output())
            node.destroy()
