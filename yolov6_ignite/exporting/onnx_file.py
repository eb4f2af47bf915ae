"""Graphs as ONNX models."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from yolov6_ignite import __version__
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.graphs import EndToEndGraph, ExportGraph
from yolov6_ignite.exporting.nms_operator import translations
from yolov6_ignite.exporting.quantized_nodes import merge_quantizers
from yolov6_ignite.exporting.settings import OPSETS, ExportSettings
from yolov6_ignite.exporting.weight_initializers import store_integer_weights
from yolov6_ignite.quantization import QuantizationSpec

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["build_onnx", "with_predictions"]

PREDICTIONS = EndToEndGraph.output_names[-1]


def build_onnx(
    graph: ExportGraph,
    settings: ExportSettings,
    image_size: tuple[int, int],
    metadata: Mapping[str, str],
    quantization: QuantizationSpec | None = None,
) -> ModelProto:
    """Exports a graph.

    Args:
        graph: in eval mode, in the precision that the file is to have.
        settings: batch, sizes and operator set.
        image_size: (height, width) in pixels.
        metadata: put into the file.
        quantization: of a graph whose quantisers are nodes.

    Returns:
        A model that passed ONNX's own full check.

    Raises:
        ConfigError: the operator set cannot be had.
    """
    import onnx

    opset = settings.opset_for(quantization)
    height, width = image_size
    dimensions: dict[int, Any] = {}
    if settings.batch_size is None:
        dimensions[0] = torch.export.Dim("batch", min=1)
    if settings.dynamic_size:
        multiple = graph.model.size_multiple
        dimensions |= {2: multiple * torch.export.Dim("rows"), 3: multiple * torch.export.Dim("columns")}
        height, width = 4 * multiple, 5 * multiple  # a traced size of 0 or 1 cells would be taken for fixed
    images = torch.zeros(settings.batch_size or 2, 3, height, width, dtype=graph.input_dtype)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=list(graph.output_names),
            dynamic_shapes=(dimensions,) if dimensions else None,
            custom_translation_table=translations() if isinstance(graph, EndToEndGraph) else None,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    made = {entry.domain: entry.version for entry in model.opset_import}[""]
    if made != opset:
        raise ConfigError(f"--opset: {opset} cannot be made of this model, only {made}; choose {OPSETS[0]}")
    _drop_traces(model)
    if quantization is not None:
        for_onnxruntime = quantization.target == "onnxruntime"
        if for_onnxruntime:
            store_integer_weights(model)
        merge_quantizers(model, around_moves=for_onnxruntime)
    if settings.simplify:
        model = _simplified(model)
    _name_dimensions(model, settings)
    if isinstance(graph, EndToEndGraph):
        _drop_output(model, PREDICTIONS)
    model.producer_name, model.producer_version = "yolov6-ignite", __version__
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def with_predictions(content: bytes) -> bytes:
    """An end-to-end file that also gives ``outputs``, the predictions that its detections were selected from.

    Args:
        content: of the file.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    shape = ["batch", "anchors", "values"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(PREDICTIONS, onnx.TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


def _drop_output(model: ModelProto, name: str) -> None:
    (output,) = [output for output in model.graph.output if output.name == name]
    model.graph.output.remove(output)


def _drop_traces(model: ModelProto) -> None:
    """Drops the exporter's notes: more bytes than a small model's weights, and paths of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    constants = {item.name for item in graph.initializer}
    notes = [note for note in graph.value_info if note.name not in constants]  # initialisers have their own types
    del graph.value_info[:]
    graph.value_info.extend(notes)


def _name_dimensions(model: ModelProto, settings: ExportSettings) -> None:
    """Names that say what they are; the exporter's are formulas."""
    if not settings.dynamic_size:
        return
    _, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    height.dim_param, width.dim_param = "height", "width"
    del model.graph.value_info[:]  # they use the formulas; runtimes infer them
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        names = ("anchors",) if len(dims) == 3 else (f"{output.name}_height", f"{output.name}_width")
        for dim, name in zip(dims[1:2] if len(dims) == 3 else dims[2:], names, strict=True):
            dim.dim_param = name


def _simplified(model: ModelProto) -> ModelProto:
    import onnxslim

    with _quiet():
        return onnxslim.slim(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps remarks of exporters to themselves that no user can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
