"""Weights to a checked file."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.check import (
    QUANTIZED,
    QUANTIZED_FAST,
    Agreement,
    ExportMismatchError,
    Tolerance,
    compare,
    quantized_tolerance,
)
from yolov6_ignite.exporting.drafts import Drafts, drafts_of
from yolov6_ignite.exporting.graphs import DetectionGraph, EndToEndGraph, ExportGraph, RawLevelGraph, TensorRTGraph
from yolov6_ignite.exporting.metadata import build_metadata
from yolov6_ignite.exporting.nms_operator import PLUGIN, plugin_attributes, split_at_plugin
from yolov6_ignite.exporting.onnx_file import build_onnx, with_predictions
from yolov6_ignite.exporting.openvino_file import OpenVINOSession, openvino_weights, write_openvino
from yolov6_ignite.exporting.quantized_graph import quantized_for, with_exported_quantizers
from yolov6_ignite.exporting.runtimes import OnnxSession, run_torchscript
from yolov6_ignite.exporting.sample_images import sample_batches
from yolov6_ignite.exporting.settings import ExportSettings, Thresholds
from yolov6_ignite.exporting.torchscript_file import build_torchscript
from yolov6_ignite.models import Detector
from yolov6_ignite.quantization import QuantizationSpec, set_mode
from yolov6_ignite.weights import Weights

__all__ = ["Exported", "export_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: the file.
        files: all that were written: OpenVINO's weights are in a second one.
        image_size: (height, width) in pixels.
        size_multiple: image sides must be multiples of this number of pixels.
        input_type: what the images are.
        output_names: in order.
        agreement: with the model, of the file as its runtime runs it.
        unoptimized: of a quantised ONNX file also as it stands, without onnxruntime's rewriting of the graph; None
            for others.
        from_float: how far quantisation itself, in torch, is from the float model; None where it is not quantised.
        quantization: of the file; None where it is not quantised.
    """

    path: Path
    files: tuple[Path, ...]
    image_size: tuple[int, int]
    size_multiple: int
    input_type: str
    output_names: tuple[str, ...]
    agreement: Agreement
    unoptimized: Agreement | None
    from_float: Agreement | None
    quantization: QuantizationSpec | None


def export_model(weights: Weights, path: Path, settings: ExportSettings, *, images: Path | None = None) -> Exported:
    """Exports weights, and runs the file on images to compare it with the model.

    Args:
        weights: from :func:`yolov6_ignite.weights.read_weights`.
        path: the file to write; must not exist. For OpenVINO ``x.xml``, and ``x.bin`` must not exist either.
        settings: what is wanted.
        images: a folder of images for the comparison; noise without.

    Raises:
        ConfigError: something that the settings ask for is impossible, the weights give numbers that are not finite,
            or a file of that name is there already or cannot be written.
        ExportMismatchError: the file's outputs are not the model's; it is kept as ``x.onnx.failed``.
    """
    settings.require_possible()
    files = (path, openvino_weights(path)) if settings.format == "openvino" else (path,)
    with drafts_of(files) as drafts:
        try:
            done = _export(weights, drafts, settings, images)
        except ExportMismatchError as error:
            try:
                kept = f"it is kept as {', '.join(map(str, drafts.keep_failed()))}"
            except ConfigError as refused:
                kept = f"it is not kept ({refused})"
            raise ExportMismatchError(f"{path}: is not usable: {error}; {kept}") from error
        drafts.publish()
    return done


def _export(weights: Weights, drafts: Drafts, settings: ExportSettings, images: Path | None) -> Exported:
    """Makes the files and checks them, before they have their names."""
    quantization = settings.quantization_of(weights.quantization)
    built = weights.build()
    model = built.deploy() if quantization is None else quantized_for(built, quantization)
    trained = weights.config.eval.image_size
    default = weights.config.data.height_width if trained is None else (trained, trained)
    settings = replace(settings, image_size=settings.image_size or default)
    size = settings.require_image_size(model.size_multiple)
    sizes = [size]
    if settings.any_size:
        sizes.append((size[0] + model.size_multiple, size[1] + 2 * model.size_multiple))
    batch_sizes = [1, 3] if settings.batch_size is None else [settings.batch_size]
    batches = sample_batches(batch_sizes, sizes, images)

    reference = (RawLevelGraph if settings.raw_levels else DetectionGraph)(model).eval()
    _require_finite(weights, reference, batches[0])
    logger.info("%s: exporting, then running the file beside the model ...", drafts.files[0])
    exported = copy.deepcopy(model) if quantization is None else with_exported_quantizers(model, half=settings.half)
    graph = _graph(exported, settings, settings.thresholds(weights.config.eval)).eval()
    if settings.half and settings.format != "openvino":
        graph.half()
    made = drafts.paths[0]
    metadata = build_metadata(graph, weights.config, settings, size, quantization)
    openvino = settings.format == "openvino"
    if settings.format == "torchscript":
        content = build_torchscript(graph, size, metadata)
    else:
        inside = {} if openvino else metadata  # OpenVINO would keep the ONNX file's, in a place of its own
        content = build_onnx(graph, settings, size, inside, quantization).SerializeToString()
    if openvino:
        write_openvino(made, content, metadata, name=drafts.files[0], half=settings.half)
    else:
        drafts.write(content)
    from_float = unoptimized = None
    if quantization is None:
        agreement = _checked(made, graph, reference, settings, batches)
    else:
        set_mode(built, "off")
        floating = type(reference)(built).eval()
        from_float = compare(reference, reference, floating, batches, tolerance=QUANTIZED)
        if not openvino:
            plain = QUANTIZED_FAST if settings.half else quantized_tolerance(from_float)
            unoptimized = _checked(made, graph, reference, settings, batches, plain, optimized=False)
        agreement = _checked(made, graph, reference, settings, batches, QUANTIZED_FAST)
    count = 4 if isinstance(graph, EndToEndGraph) else len(graph.output_names)
    return Exported(
        path=drafts.files[0],
        files=drafts.files,
        image_size=size,
        size_multiple=model.size_multiple,
        input_type=graph.input_type,
        output_names=graph.output_names[:count],
        agreement=agreement,
        unoptimized=unoptimized,
        from_float=from_float,
        quantization=quantization,
    )


def _require_finite(weights: Weights, reference: ExportGraph, images: Tensor) -> None:
    with torch.no_grad():
        outputs = reference(images.float() / 255)
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ConfigError(f"{weights.path}: the weights give numbers that are not finite; give others")


def _checked(
    path: Path,
    graph: ExportGraph,
    reference: ExportGraph,
    settings: ExportSettings,
    batches: list[Tensor],
    tolerance: Tolerance | None = None,
    *,
    optimized: bool = True,
) -> Agreement:
    """Compares the file with the model; refuses what is beyond the tolerance."""
    try:
        run = _runner(path, graph, settings, optimized=optimized)
        agreement = compare(graph, reference, run, batches, half=settings.half, tolerance=tolerance)
    except ConfigError as error:  # of a runtime that cannot open the file
        raise ExportMismatchError(str(error).removeprefix(f"{path}: ").replace(str(path), path.name)) from error
    if not agreement.good:
        how = "" if optimized else " (run without onnxruntime's optimisation)"
        given = {"--half": settings.half, "--simplify": settings.simplify, "--opset": settings.opset is not None}
        options = ", ".join(option for option, is_given in given.items() if is_given)
        raise ExportMismatchError(
            f"its outputs are not the model's{how}: {agreement}; tolerated are {agreement.tolerance}"
            + (f"; try without {options}" if options else "")
        )
    return agreement


def _graph(model: Detector, settings: ExportSettings, thresholds: Thresholds) -> ExportGraph:
    if settings.raw_levels:
        return RawLevelGraph(model, preprocess=settings.preprocess)
    if settings.end2end is None:
        return DetectionGraph(model, preprocess=settings.preprocess)
    suppressing = TensorRTGraph if settings.end2end == "tensorrt" else EndToEndGraph
    return suppressing(model, thresholds, preprocess=settings.preprocess)


def _runner(
    path: Path, graph: ExportGraph, settings: ExportSettings, *, optimized: bool
) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function; of an end-to-end file also the predictions, from its twin that has them."""
    if settings.format == "torchscript":
        return run_torchscript(path.read_bytes(), path)
    if isinstance(graph, TensorRTGraph):
        before, attributes = split_at_plugin(path.read_bytes())
        if attributes != (wanted := plugin_attributes(graph.thresholds)):
            raise ExportMismatchError(f"its {PLUGIN} has {attributes} instead of {wanted}")
        return OnnxSession(before, path, optimized=optimized)
    openvino = settings.format == "openvino"
    session = OpenVINOSession(path) if openvino else OnnxSession(path, path, optimized=optimized)
    if not isinstance(graph, EndToEndGraph):
        return session
    twin: OpenVINOSession | OnnxSession
    if openvino:
        twin = OpenVINOSession(path, inner_outputs=graph.output_names[-1:])
    else:
        twin = OnnxSession(with_predictions(path.read_bytes()), path, optimized=optimized)
    return lambda images: [*session(images), twin(images)[-1]]
