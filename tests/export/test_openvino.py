"""OpenVINO files against the model, and against the library's detections."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov6_ignite import export
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting import ExportSettings, Thresholds, export_model
from yolov6_ignite.exporting.check import ExportMismatchError
from yolov6_ignite.exporting.graphs import TensorRTGraph
from yolov6_ignite.exporting.onnx_file import build_onnx
from yolov6_ignite.exporting.openvino_file import OpenVINOSession, write_openvino
from yolov6_ignite.metrics import non_max_suppression
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model
from yolov6_ignite.weights import Weights, read_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.mark.slow
def test_outputs_are_the_model_s_for_any_batch_and_size(tiny_weights: Weights, tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    done = export_model(tiny_weights, file, ExportSettings(format="openvino", dynamic_size=True))
    assert max(done.agreement.boxes, done.agreement.scores) < 1e-4
    assert done.files == (file, file.with_suffix(".bin"))
    assert sorted(tmp_path.iterdir()) == sorted(done.files)
    model, session = tiny_weights.build(), OpenVINOSession(file)
    assert (session.image_shape, session.input_type) == ((None, 3, None, None), torch.float32)
    assert session.output_names == ("outputs",)
    for shape in ((1, 3, 64, 64), (3, 3, 64, 96), (2, 3, 128, 32)):
        images = torch.rand(shape)
        (output,) = session(images)
        torch.testing.assert_close(output, model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_keeps_weights_in_half_precision_and_takes_floats(tiny_weights: Weights, tmp_path: Path) -> None:
    file = tmp_path / "half.xml"
    half = export_model(tiny_weights, file, ExportSettings(format="openvino", batch_size=2, half=True))
    parameters = sum(parameter.numel() for parameter in tiny_weights.build().deploy().parameters())
    assert file.with_suffix(".bin").stat().st_size < 2.1 * parameters
    assert 1e-5 < half.agreement.scores < 0.02
    assert half.input_type == "RGB float32 in [0, 1]"
    session = OpenVINOSession(file)
    assert (session.image_shape, session.input_type) == ((2, 3, 64, 64), torch.float32)
    assert json.loads(session.metadata["preprocessing"])["dtype"] == "float32"


@pytest.mark.slow
def test_raw_levels_with_preprocessing(tiny_weights: Weights, tmp_path: Path) -> None:
    settings = ExportSettings(format="openvino", raw_levels=True, preprocess=True)
    done = export_model(tiny_weights, tmp_path / "model.xml", settings)
    assert done.output_names == ("stride_8", "stride_16", "stride_32")
    session = OpenVINOSession(done.path)
    assert session.output_names == done.output_names
    assert session.input_type == torch.uint8
    levels = session(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))
    assert [tuple(level.shape) for level in levels] == [(3, 7, 64 // s, 64 // s) for s in (8, 16, 32)]


@pytest.mark.slow
def test_the_command_writes_both_files_with_metadata(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.xml"
    suppression = ["--end2end", "onnxruntime", "--conf-threshold", "0.005", "--iou-threshold", "0.3"]
    assert export.main([str(tiny_weights_file), "--format", "openvino", "--output", str(file), *suppression]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{file}: exporting, then running the file beside the model ...\n"
    assert f"{file}, {file.with_suffix('.bin')}: " in captured.out
    assert "detections are those of the library" in captured.out
    session = OpenVINOSession(file)
    assert session.output_names == ("num_dets", "det_boxes", "det_scores", "det_classes")
    metadata = session.metadata
    assert (metadata["producer"], metadata["outputs"]) == ("yolov6-ignite", "end2end")
    assert (metadata["stride"], metadata["image_size"], metadata["half"]) == ("32", "[64, 64]", "false")
    assert json.loads(metadata["names"]) == ["class 0", "class 1"]
    assert json.loads(metadata["thresholds"]) == {"conf": 0.005, "iou": 0.3, "max_detections": 300}
    assert Config.model_validate_json(metadata["config"]) == read_weights(tiny_weights_file).config
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    counts, boxes, scores, labels = session(images)
    predictions = read_weights(tiny_weights_file).build()(images)
    kept = non_max_suppression(predictions, conf_threshold=0.005, iou_threshold=0.3, max_detections=300)
    assert counts.flatten().tolist() == [len(rows) for rows in kept]
    for image, rows in enumerate(kept):
        n = len(rows)
        assert n > 1
        found = torch.cat((boxes[image, :n], scores[image, :n, None], labels[image, :n, None]), 1)
        torch.testing.assert_close(found, rows, rtol=1e-4, atol=1e-3)


def test_metadata_may_have_any_text(tmp_path: Path) -> None:
    texts = {"names": '["<a & \'b\'>", "ä\u4e2d", "\\\\"]', "empty": "", "number": "007", "lines": "one, \ttwo"}
    write_openvino(tmp_path / "model.xml", _quantized_convolution(np.uint8), texts)
    assert OpenVINOSession(tmp_path / "model.xml").metadata == texts


@pytest.mark.parametrize(("iou", "room"), [(0.5, 12), (0.5, 180), (0.0, 180), (1.0, 180)])
def test_suppression_on_ties_equal_overlaps_and_broken_boxes(
    iou: float, room: int, tmp_path: Path, suppression_of_ties: Callable[..., tuple[torch.Tensor, bytes]]
) -> None:
    predictions, content = suppression_of_ties(iou, room)
    file = tmp_path / "suppression.xml"
    write_openvino(file, content, {})
    counts, boxes, scores, labels = OpenVINOSession(file)(predictions)[:4]
    kept = non_max_suppression(predictions, conf_threshold=0.25, iou_threshold=iou, max_detections=room)
    assert counts.flatten().tolist() == [len(rows) for rows in kept]
    for image, rows in enumerate(kept):
        found = torch.cat((boxes[image], scores[image, :, None], labels[image, :, None]), 1)
        assert torch.equal(found[: len(rows)], rows)


def _quantized_convolution(kind: Any) -> bytes:
    """A convolution with integer weights between QuantizeLinear and DequantizeLinear."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    weights = np.random.default_rng(0).integers(-128, 128, (8, 3, 3, 3), dtype=np.int8)
    scale = np.float32(1 / np.iinfo(kind).max)
    constants = {
        "scale": scale,
        "zero": np.array(0, kind),
        "weights": weights,
        "weight_scales": np.linspace(0.001, 0.01, 8, dtype=np.float32),
        "weight_zeros": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weights", "weight_scales", "weight_zeros"], ["kernel"], axis=0),
        helper.make_node("Conv", ["rounded", "kernel"], ["outputs"]),
    ]
    images, outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, side, side])
        for name, channels, side in (("images", 3, 16), ("outputs", 8, 14))
    )
    tensors = [to_tensor(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "quantized", [images], [outputs], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_quantised_models_stay_so(kind: Any, tmp_path: Path) -> None:
    from yolov6_ignite.exporting.runtimes import OnnxSession

    content = _quantized_convolution(kind)
    file = tmp_path / "quantized.xml"
    write_openvino(file, content, {})
    assert file.with_suffix(".bin").stat().st_size < 8 * 27 + 150  # a byte a weight
    images = torch.randint(256, (3, 3, 16, 16)) / 255  # none is between two integers
    (found,), (expected,) = OpenVINOSession(file)(images), OnnxSession(content, "quantized")(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_quantised_weights_compute_what_they_were_calibrated_for(tiny_weights: Weights, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = QuantizationSpec(target="onnxruntime")
    model = quantized_model(tiny_weights.build(), spec)
    calibrate(model, [torch.rand(4, 3, 64, 64)], spec)
    weights = replace(tiny_weights, state=model.state_dict(), quantization=spec)
    file = tmp_path / "model.xml"
    agreement = export_model(weights, file, ExportSettings(format="openvino")).agreement
    assert min(agreement.boxes_db, agreement.scores_db) > 40
    parameters = sum(parameter.numel() for parameter in tiny_weights.build().deploy().parameters())
    assert file.with_suffix(".bin").stat().st_size < 1.5 * parameters
    for settings, message in (
        (ExportSettings(format="openvino", half=True), "--half: OpenVINO keeps"),
        (ExportSettings(format="openvino", target="tensorrt"), "with the integers of tensorrt; choose --target onnxr"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_model(weights, tmp_path / "other.xml", settings)


@pytest.mark.slow
def test_weights_that_were_changed_are_noticed(
    tiny_weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, *arguments: Any, **options: Any) -> None:
        write_openvino(path, *arguments, **options)
        numbers = np.fromfile(path.with_suffix(".bin"), np.float32)
        largest = np.abs(np.where(np.abs(numbers) < 10, numbers, 0)).argmax()  # others are integers, or anchors
        numbers[largest] *= -1
        numbers.tofile(path.with_suffix(".bin"))

    monkeypatch.setattr("yolov6_ignite.exporting.export.write_openvino", write)
    with pytest.raises(ExportMismatchError, match="its outputs are not the model's"):
        export_model(tiny_weights, tmp_path / "model.xml", ExportSettings(format="openvino", batch_size=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin.failed", "model.xml.failed"]


def test_files_that_are_there_stay(tiny_weights: Weights, tmp_path: Path) -> None:
    settings = ExportSettings(format="openvino")
    for suffix in (".xml", ".bin"):
        existing = (tmp_path / "model").with_suffix(suffix)
        existing.write_text("mine")
        with pytest.raises(ConfigError, match=rf"model\{suffix}: is there already"):
            export_model(tiny_weights, tmp_path / "model.xml", settings)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        existing.unlink()
    with pytest.raises(ConfigError, match=r"model\.openvino: OpenVINO needs the suffix \.xml"):
        export_model(tiny_weights, tmp_path / "model.openvino", settings)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(ConfigError, match=r"model\.xml: cannot be written \(.+\)"):
        write_openvino(tmp_path / "model.xml", _quantized_convolution(np.uint8), {})


@pytest.mark.slow
def test_models_that_openvino_cannot_convert_are_refused(tiny_weights: Weights, tmp_path: Path) -> None:
    graph = TensorRTGraph(tiny_weights.build().deploy(), Thresholds(0.25, 0.45, 5)).eval()
    content = build_onnx(graph, ExportSettings(batch_size=1), (32, 32), {}).SerializeToString()
    with pytest.raises(ConfigError, match=r"--format openvino: .* cannot be converted \(.*TRT\.EfficientNMS_TRT.*\)$"):
        write_openvino(tmp_path / "model.xml", content, {})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    with pytest.raises(ConfigError, match=r"model\.xml: OpenVINO cannot run it \(.+\)$"):
        OpenVINOSession(file)
    file.write_text("<net>")
    with pytest.raises(ConfigError, match=r"model\.xml: OpenVINO cannot run it \(.+\)$"):
        OpenVINOSession(file)


@pytest.mark.parametrize("missing", ["onnxscript", "openvino"])
def test_a_missing_package_names_the_extra(
    missing: str,
    tiny_weights_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    file = tmp_path / "model.xml"
    assert export.main([str(tiny_weights_file), "--format", "openvino", "--output", str(file)]) == 2
    error = capsys.readouterr().err
    wanted = f"--format openvino: the package {missing} is not installed; run pip install 'yolov6-ignite[openvino]'"
    assert wanted in error
