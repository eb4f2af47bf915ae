"""ONNX files that end in TensorRT's suppression: the node as a parser reads it, and everything before it as it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov6_ignite import export
from yolov6_ignite.exporting import ExportSettings, export_model
from yolov6_ignite.exporting.check import ExportMismatchError
from yolov6_ignite.exporting.nms_operator import PLUGIN, split_at_plugin
from yolov6_ignite.exporting.runtimes import OnnxSession
from yolov6_ignite.metrics.boxes import cxcywh_to_xyxy
from yolov6_ignite.weights import Weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxslim")

ROOM = 7
THRESHOLDS = {"conf_threshold": 0.25, "iou_threshold": 0.45, "max_detections": ROOM}
ANY_BATCH = ExportSettings(end2end="tensorrt", preprocess=True, image_size=(64, 96), **THRESHOLDS)
FIXED = ExportSettings(end2end="tensorrt", half=True, batch_size=2, simplify=True, **THRESHOLDS)


@pytest.fixture(scope="module")
def any_batch(tiny_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tensorrt") / "any.onnx"
    done = export_model(tiny_weights, file, ANY_BATCH)
    assert done.output_names == ("num_dets", "det_boxes", "det_scores", "det_classes")
    assert done.agreement.batch_sizes == (1, 3)
    assert max(done.agreement.boxes, done.agreement.scores) < 1e-4
    return file


@pytest.fixture(scope="module")
def fixed(tiny_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tensorrt") / "fixed.onnx"
    agreement = export_model(tiny_weights, file, FIXED).agreement
    assert agreement.batch_sizes == (2,)
    assert 0 < agreement.scores < 0.02  # in half precision
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "image_type", "anchors"),
    [("any_batch", "batch", onnx.TensorProto.UINT8, 126), ("fixed", 2, onnx.TensorProto.FLOAT16, 84)],
)
def test_outputs_and_node_are_those_of_the_plugin(
    name: str, batch: str | int, image_type: int, anchors: int, request: pytest.FixtureRequest
) -> None:
    model = onnx.load(request.getfixturevalue(name))
    onnx.checker.check_model(model, full_check=True)
    (node,) = [node for node in model.graph.node if node.domain]
    assert (node.op_type, node.domain) == ("EfficientNMS_TRT", "TRT")
    assert [entry.version for entry in model.opset_import if entry.domain == "TRT"] == [1]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert attributes == {
        "plugin_version": b"1",
        "background_class": -1,
        "box_coding": 0,
        "class_agnostic": 0,
        "iou_threshold": pytest.approx(0.45),
        "max_output_boxes": ROOM,
        "score_activation": 0,
        "score_threshold": 0.25,
    }
    assert list(node.output) == [output.name for output in model.graph.output]

    def described(value: Any) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    int32, fp32 = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT  # decoded in fp32 in files of half precision too
    assert model.graph.input[0].type.tensor_type.elem_type == image_type
    assert [described(output) for output in model.graph.output] == [
        ("num_dets", int32, [batch, 1]),
        ("det_boxes", fp32, [batch, ROOM, 4]),
        ("det_scores", fp32, [batch, ROOM]),
        ("det_classes", int32, [batch, ROOM]),
    ]
    inner = {value.name: described(value)[1:] for value in model.graph.value_info}
    assert [inner[value] for value in node.input] == [(fp32, [batch, anchors, 4]), (fp32, [batch, anchors, 3])]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_the_node_is_given_the_model_s_corners_and_scores(batch: int, any_batch: Path, tiny_weights: Weights) -> None:
    before, _ = split_at_plugin(any_batch.read_bytes())
    images = torch.randint(256, (batch, 3, 64, 96), dtype=torch.uint8)
    boxes, scores = OnnxSession(before, "twin")(images)
    with torch.no_grad():
        expected = tiny_weights.build()(images.flip(1) / 255)
    assert boxes.shape == (batch, 126, 4)
    torch.testing.assert_close(boxes, cxcywh_to_xyxy(expected[..., :4]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected[..., 5:], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_metadata_has_the_node_s_thresholds(fixed: Path) -> None:
    before, _ = split_at_plugin(fixed.read_bytes())
    metadata = OnnxSession(before, "twin").metadata
    assert metadata["outputs"] == "end2end-tensorrt"
    assert metadata["thresholds"] == f'{{"conf": 0.25, "iou": 0.45, "max_detections": {ROOM}}}'


def _other_attribute(name: str, key: str, value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (node,) = [node for node in model.graph.node if node.op_type == PLUGIN]
        (attribute,) = [entry for entry in node.attribute if entry.name == name]
        setattr(attribute, key, value)

    return change


def _swapped_inputs(model: Any) -> None:
    (node,) = [node for node in model.graph.node if node.op_type == PLUGIN]
    node.input[:] = node.input[::-1]


def _other_weights(model: Any) -> None:
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    numbers = onnx.numpy_helper.to_array(weights)
    weights.raw_data = (numbers * 1.5).astype(numbers.dtype).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_attribute("iou_threshold", "f", 0.5), r"EfficientNMS_TRT has .*'iou_threshold': 0\.5.* instead of"),
        (_other_attribute("background_class", "i", 0), "'background_class': 0.* instead of"),
        (_swapped_inputs, "gives other shapes than the model"),
        (_other_weights, "its outputs are not the model's"),
    ],
)
def test_a_file_that_was_changed_is_noticed(
    change: Callable[[Any], None],
    message: str,
    any_batch: Path,
    tiny_weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(any_batch)
    change(model)
    monkeypatch.setattr("yolov6_ignite.exporting.export.build_onnx", lambda *arguments: model)
    with pytest.raises(ExportMismatchError, match=message):
        export_model(tiny_weights, tmp_path / "changed.onnx", ANY_BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dynamic-size"], "--dynamic-size: does not go with --end2end"),
        (["--raw-levels"], "choose one of them"),
        (["--format", "openvino"], "--end2end tensorrt: is of --format onnx, not of openvino"),
        (["--format", "torchscript"], "--end2end tensorrt: is of --format onnx, not of torchscript"),
    ],
)
def test_what_does_not_go_with_it(
    options: list[str], message: str, tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.xml"
    assert export.main([str(tiny_weights_file), "--output", str(file), "--end2end", "tensorrt", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not file.exists()
