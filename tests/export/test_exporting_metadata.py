"""What a file tells of itself, and what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from yolov6_ignite.config_file import apply_overrides
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting import ExportSettings
from yolov6_ignite.exporting.graphs import DetectionGraph
from yolov6_ignite.exporting.metadata import build_metadata, read_metadata
from yolov6_ignite.weights import Weights


def metadata_of(weights: Weights, settings: ExportSettings | None = None, **changes: Any) -> dict[str, str]:
    config = apply_overrides(weights.config, changes)
    graph = DetectionGraph(weights.build().deploy()).eval()
    return build_metadata(graph, config, settings or ExportSettings(), (64, 64))


@pytest.mark.parametrize(
    "changes",
    [
        {
            "train.weights": "FOLDER/start.pt",
            "train.resume": "FOLDER/last.pt",
            "handlers": [{"own.py:Handler": {"file": "FOLDER/x.csv"}}],
        },
        {"train.output_dir": "FOLDER/runs", "quant.mode": "qat", "quant.calibrated": "FOLDER/calibrated.pt"},
        {
            "distill.teacher": "FOLDER/teacher.pt",
            "distill.features": True,
            "model.head.use_dfl": True,
            "model.head.reg_max": 16,
        },
        {
            "train.weights": "FOLDER/start.pt",
            "quant.mode": "ptq",
            "quant.skip": "FOLDER/sensitivity.csv",
            "quant.most_sensitive": 3,
        },
        {"model.training_mode": "repopt", "model.scales": "FOLDER/scales.pt"},
    ],
)
def test_paths_of_weights_and_runs_are_not_in_it(
    changes: dict[str, Any], tiny_weights: Weights, tmp_path: Path
) -> None:
    changes = json.loads(json.dumps(changes).replace("FOLDER", str(tmp_path)))
    metadata = metadata_of(tiny_weights, **changes, **{"data.dataset": "mine.yaml", "eval.conf_threshold": 0.2})
    assert str(tmp_path) not in json.dumps(metadata)
    _, config = read_metadata("file", metadata)
    assert config.data.dataset == "mine.yaml"
    assert config.eval.conf_threshold == 0.2
    assert config.handlers == []


def test_properties_of_other_tools_do_no_harm(tiny_weights: Weights) -> None:
    metadata = metadata_of(tiny_weights)
    values, config = read_metadata("file", {**metadata, "onnx.infer": "onnxruntime.quant", "note": "{"})
    assert values["note"] == "{"
    assert (values["names"], values["size_multiple"]) == (tiny_weights.names, 32)
    assert config.data.image_size == 64


@pytest.mark.parametrize("key", ["outputs", "names", "strides", "size_multiple", "config"])
def test_a_missing_property_is_told(key: str, tiny_weights: Weights) -> None:
    metadata = metadata_of(tiny_weights)
    del metadata[key]
    with pytest.raises(ConfigError, match="file: its metadata is not of this version; export the weights again"):
        read_metadata("file", metadata)


def test_a_torchscript_file_takes_any_batch_and_size(tiny_weights: Weights) -> None:
    settings = ExportSettings(format="torchscript")
    metadata = metadata_of(tiny_weights, settings)
    assert (metadata["batch_size"], metadata["dynamic_size"]) == ("null", "true")
    assert metadata_of(tiny_weights, replace(settings, format="onnx"))["dynamic_size"] == "false"
