"""Weights to a checked file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from yolov6_ignite.checkpoint import write_atomically
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.check import Agreement, ExportMismatchError, compare
from yolov6_ignite.exporting.graphs import DetectionGraph, EndToEndGraph, ExportGraph, RawLevelGraph
from yolov6_ignite.exporting.metadata import build_metadata
from yolov6_ignite.exporting.onnx_file import build_onnx, with_predictions
from yolov6_ignite.exporting.runtimes import OnnxSession, run_torchscript
from yolov6_ignite.exporting.sample_images import sample_batches
from yolov6_ignite.exporting.settings import ExportSettings, Thresholds
from yolov6_ignite.exporting.torchscript_file import build_torchscript
from yolov6_ignite.models import Detector
from yolov6_ignite.weights import Weights

__all__ = ["Exported", "export_model"]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: the file.
        image_size: (height, width) in pixels.
        size_multiple: image sides must be multiples of this number of pixels.
        input_type: what the images are.
        output_names: in order.
        agreement: with the model.
    """

    path: Path
    image_size: tuple[int, int]
    size_multiple: int
    input_type: str
    output_names: tuple[str, ...]
    agreement: Agreement


def export_model(weights: Weights, path: Path, settings: ExportSettings, *, images: Path | None = None) -> Exported:
    """Exports weights, and runs the file on images to compare it with the model.

    Args:
        weights: from :func:`yolov6_ignite.weights.read_weights`.
        path: the file to write; must not exist.
        settings: what is wanted.
        images: a folder of images for the comparison; noise without.

    Raises:
        ConfigError: something that the settings ask for is impossible, or the file is there already.
        ExportMismatchError: the file was written, but its outputs are not the model's.
    """
    settings.require_possible()
    if path.exists():
        raise ConfigError(f"{path}: is there already; choose another name or remove it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    model = weights.build().deploy()
    trained = weights.config.eval.image_size
    default = weights.config.data.height_width if trained is None else (trained, trained)
    settings = replace(settings, image_size=settings.image_size or default)
    size = settings.require_image_size(model.size_multiple)
    sizes = [size]
    if settings.dynamic_size:
        sizes.append((size[0] + model.size_multiple, size[1] + 2 * model.size_multiple))
    batch_sizes = [1, 3] if settings.batch_size is None else [settings.batch_size]
    batches = sample_batches(batch_sizes, sizes, images)

    reference = (RawLevelGraph if settings.raw_levels else DetectionGraph)(model).eval()
    graph = _graph(copy.deepcopy(model), settings, settings.thresholds(weights.config.eval)).eval()
    if settings.half:
        graph.half()
    metadata = build_metadata(graph, weights.config, settings, size)
    if settings.format == "onnx":
        content = build_onnx(graph, settings, size, metadata).SerializeToString()
    else:
        content = build_torchscript(graph, size, metadata)
    write_atomically(path, lambda file: file.write(content))
    try:
        agreement = compare(graph, reference, _runner(path, graph, settings), batches, half=settings.half)
    except ExportMismatchError as error:
        raise ExportMismatchError(f"{path}: is written, but not usable: {error}") from error
    if not agreement.good:
        raise ExportMismatchError(
            f"{path}: is written, but its outputs are not the model's: {agreement}; tolerated are "
            f"{agreement.tolerance}; try without --half and --simplify, or another --opset"
        )
    count = 4 if isinstance(graph, EndToEndGraph) else len(graph.output_names)
    return Exported(path, size, model.size_multiple, graph.input_type, graph.output_names[:count], agreement)


def _graph(model: Detector, settings: ExportSettings, thresholds: Thresholds) -> ExportGraph:
    if settings.raw_levels:
        return RawLevelGraph(model, preprocess=settings.preprocess)
    if settings.end2end is None:
        return DetectionGraph(model, preprocess=settings.preprocess)
    return EndToEndGraph(model, thresholds, preprocess=settings.preprocess)


def _runner(path: Path, graph: ExportGraph, settings: ExportSettings) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function; of an end-to-end file also the predictions, from its twin that has them."""
    if settings.format == "torchscript":
        return run_torchscript(path.read_bytes())
    session = OnnxSession(path, path)
    if not isinstance(graph, EndToEndGraph):
        return session
    twin = OnnxSession(with_predictions(path.read_bytes()), path)
    return lambda images: [*session(images), twin(images)[-1]]
