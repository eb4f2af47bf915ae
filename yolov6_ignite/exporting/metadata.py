"""What an exported file tells of itself: texts by key, structured ones as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from yolov6_ignite import __version__
from yolov6_ignite.config import Config
from yolov6_ignite.data.letterbox import PAD_VALUE
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.graphs import ExportGraph, SuppressingGraph
from yolov6_ignite.exporting.settings import ExportSettings, Thresholds
from yolov6_ignite.quantization import QuantizationSpec

__all__ = ["build_metadata", "read_metadata"]

PRODUCER = "yolov6-ignite"
STRUCTURED = {
    "names",
    "stride",
    "strides",
    "size_multiple",
    "image_size",
    "dynamic_size",
    "batch_size",
    "half",
    "quantization",
    "preprocessing",
    "thresholds",
}
"""Whose text is JSON."""


def build_metadata(
    graph: ExportGraph,
    config: Config,
    settings: ExportSettings,
    image_size: tuple[int, int],
    quantization: QuantizationSpec | None = None,
) -> dict[str, str]:
    """The metadata of a file.

    Args:
        graph: what is exported.
        config: what the model was trained with.
        settings: of the export.
        image_size: (height, width) in pixels.
        quantization: of the file.
    """
    model = graph.model
    thresholds = Thresholds(config.eval.conf_threshold, config.eval.iou_threshold, config.eval.max_detections)
    if isinstance(graph, SuppressingGraph):
        thresholds = graph.thresholds
    preprocessing = {
        "channels": "BGR" if graph.preprocess else "RGB",
        "range": [0, 255] if graph.preprocess else [0, 1],
        "dtype": str(graph.input_dtype).removeprefix("torch."),
        "layout": "NCHW",
        "letterbox": PAD_VALUE,
        "resize": "linear, keeping the aspect ratio, small images enlarged; the image in the middle",
    }
    return {
        "producer": PRODUCER,
        "version": __version__,
        "model": config.model.type,
        "outputs": graph.kind,
        "layout": graph.layout,
        "names": json.dumps(model.names),
        "stride": str(model.stride),
        "strides": json.dumps(model.strides),
        "size_multiple": str(model.size_multiple),
        "image_size": json.dumps(image_size),
        "dynamic_size": json.dumps(settings.any_size),
        "batch_size": json.dumps(settings.batch_size),
        "half": json.dumps(settings.half),
        "quantization": json.dumps(None if quantization is None else quantization.to_dict()),
        "preprocessing": json.dumps(preprocessing),
        "thresholds": json.dumps(
            {"conf": thresholds.conf, "iou": thresholds.iou, "max_detections": thresholds.max_detections}
        ),
        "config": _without_paths(config).model_dump_json(),
    }


def _without_paths(config: Config) -> Config:
    """What evaluation needs, and not where the run was: its data set is the only path that stays."""
    fresh = Config(model=config.model)
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"scales": None}),
            "train": config.train.model_copy(
                update={key: getattr(fresh.train, key) for key in ("weights", "output_dir", "resume")}
            ),
            "distill": fresh.distill,
            "quant": fresh.quant,  # the file's own quantisation stands beside it
            "handlers": fresh.handlers,
        }
    )


def read_metadata(name: str, metadata: Mapping[str, str]) -> tuple[dict[str, Any], Config]:
    """Metadata with its JSON read, and the configuration that the model was trained with.

    Args:
        name: of the file, for messages.
        metadata: as it stands there.

    Raises:
        ConfigError: the file is not one of this project, or the metadata is damaged.
    """
    if metadata.get("producer") != PRODUCER:
        raise ConfigError(f"{name}: was not exported by this project; give a file that yolov6-ignite export wrote")
    try:
        values = {key: json.loads(value) if key in STRUCTURED else value for key, value in metadata.items()}
        config = Config.model_validate_json(values["config"])
        names, strides, size_multiple = values["names"], values["strides"], values["size_multiple"]
        values["outputs"]
    except (ValueError, KeyError, ValidationError) as error:
        raise ConfigError(f"{name}: its metadata is not of this version; export the weights again") from error
    lists = isinstance(names, list) and isinstance(strides, list) and strides
    if not (lists and all(isinstance(n, str) for n in names) and isinstance(size_multiple, int)):
        raise ConfigError(f"{name}: its metadata is damaged; export the weights again")
    return values, config
