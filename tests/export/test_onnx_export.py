"""ONNX files in onnxruntime against the model, and against the library's detections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov6_ignite import __version__, export
from yolov6_ignite.config import Config
from yolov6_ignite.exporting import ExportSettings, export_model
from yolov6_ignite.exporting.runtimes import OnnxSession
from yolov6_ignite.metrics import non_max_suppression
from yolov6_ignite.weights import Weights, read_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

SMALL = {"model.width_multiple": 0.125}
NETWORKS: dict[str, tuple[str, tuple[int, int], float, dict[str, Any]]] = {  # recipe, size, gain, changes
    "n": ("yolov6n", (64, 96), 0.6, {}),
    "m": ("yolov6m", (64, 96), 1.0, {**SMALL, "model.depth_multiple": 0.2}),
    "n6": ("yolov6n6", (128, 192), 0.6, SMALL),
    "lite_s": ("yolov6_lite/yolov6_lite_s", (64, 96), 1.3, {}),
    "s_mbla": ("mbla/yolov6s_mbla", (64, 96), 1.3, SMALL),
}


def largest_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@pytest.mark.parametrize("network", NETWORKS)
def test_fp32_outputs_are_the_model_s_for_any_batch(
    network: str, random_weights: Callable[..., Weights], tmp_path: Path
) -> None:
    recipe, size, gain, changes = NETWORKS[network]
    weights = random_weights(recipe, classes=80 if network == "n" else 3, gain=gain, **changes)
    file = tmp_path / "model.onnx"
    agreement = export_model(weights, file, ExportSettings(image_size=size)).agreement
    assert max(agreement.boxes, agreement.scores) <= 1e-4
    model, session = weights.build(), OnnxSession(file, file)
    for batch in (1, 5):
        images = torch.rand(batch, 3, *size)
        (output,), expected = session(images), model(images)
        assert output.shape == expected.shape
        assert expected[..., 5:].std(1).min() > 0.01  # there is something to compare
        assert largest_difference(output[..., :4], expected[..., :4]) <= 1e-4 * max(size)
        assert largest_difference(output[..., 5:], expected[..., 5:]) <= 1e-4


@pytest.mark.parametrize("simplify", [False, True])
def test_any_image_size(
    simplify: bool, random_weights: Callable[..., Weights], tiny: dict[str, float], tmp_path: Path
) -> None:
    if simplify:
        pytest.importorskip("onnxslim")
    weights = random_weights(**tiny)
    file = tmp_path / "model.onnx"
    export_model(weights, file, ExportSettings(image_size=(32, 32), dynamic_size=True, simplify=simplify))
    graph = onnx.load(file).graph
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", "anchors", 8]]
    assert not {note.name for note in graph.value_info} & {constant.name for constant in graph.initializer}
    model, session = weights.build(), OnnxSession(file, file)
    for shape in ((1, 3, 32, 32), (2, 3, 160, 64), (3, 3, 64, 224)):
        images = torch.rand(shape)
        torch.testing.assert_close(session(images)[0], model(images), rtol=1e-4, atol=1e-4)


def test_fixed_batch_half_precision_and_simplified(tiny_weights: Weights, tmp_path: Path) -> None:
    pytest.importorskip("onnxslim")
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    export_model(tiny_weights, whole, ExportSettings(simplify=True, opset=20))
    export_model(tiny_weights, half, ExportSettings(batch_size=2, half=True, opset=22))
    for file in (whole, half):
        model = onnx.load(file)
        assert model.ir_version >= onnx.helper.find_min_ir_version_for(model.opset_import)
        assert not {note.name for note in model.graph.value_info} & {item.name for item in model.graph.initializer}
    session = OnnxSession(half, half)
    assert session.image_shape == (2, 3, 64, 64)
    assert session.input_type == torch.float16
    assert half.stat().st_size < 0.7 * whole.stat().st_size


@pytest.mark.parametrize("classes", [1, 3])
def test_end_to_end_gives_the_library_s_detections(
    classes: int, random_weights: Callable[..., Weights], tiny: dict[str, float], tmp_path: Path
) -> None:
    weights = random_weights(**tiny, classes=classes)
    file = tmp_path / "model.onnx"
    settings = ExportSettings(
        image_size=(64, 96),
        preprocess=True,
        end2end="onnxruntime",
        conf_threshold=0.005,
        iou_threshold=0.3,
        max_detections=30,
    )
    done = export_model(weights, file, settings)
    assert done.output_names == ("num_dets", "det_boxes", "det_scores", "det_classes")
    assert done.agreement.detections
    model, session = weights.build(), OnnxSession(file, file)
    bgr = torch.randint(256, (5, 3, 64, 96), dtype=torch.uint8)
    kept = non_max_suppression(
        model(bgr.flip(1) / 255), conf_threshold=0.005, iou_threshold=0.3, max_detections=30, multi_label=True
    )
    counts, boxes, scores, labels = session(bgr)
    assert counts.flatten().tolist() == [len(rows) for rows in kept]
    for image, rows in enumerate(kept):
        n = len(rows)
        assert n > 1
        torch.testing.assert_close(boxes[image, :n], rows[:, :4], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(scores[image, :n], rows[:, 4], rtol=1e-4, atol=1e-5)
        assert labels[image, :n].tolist() == rows[:, 5].tolist()
        assert (boxes[image, n:] == 0).all()
        assert (labels[image, n:] == -1).all()


def test_suppression_on_ties_equal_overlaps_and_broken_boxes(
    suppression_of_ties: Callable[..., tuple[torch.Tensor, bytes]],
) -> None:
    import onnxruntime

    room = 12
    predictions, content = suppression_of_ties(0.5, room)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: predictions.numpy()})
    counts, boxes, scores, labels = (torch.from_numpy(output) for output in outputs[:4])
    kept = non_max_suppression(predictions, conf_threshold=0.25, iou_threshold=0.5, max_detections=room)
    assert counts.flatten().tolist() == [len(rows) for rows in kept] == [room, room, room, 0]
    for image, rows in enumerate(kept):
        found = torch.cat((boxes[image], scores[image, :, None], labels[image, :, None]), 1)
        assert torch.equal(found[: len(rows)], rows)


def test_metadata_tells_how_to_use_the_file(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.onnx"
    options = ["--output", str(file), "--preprocess", "--end2end", "onnxruntime", "--iou-threshold", "0.5"]
    assert export.main([str(tiny_weights_file), *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{file}: exporting, then running the file beside the model ...\n"
    assert "detections are those of the library" in captured.out
    assert str(Path(export.__file__).parent).encode() not in file.read_bytes()  # no paths of this machine
    metadata = OnnxSession(file, file).metadata
    assert metadata["version"] == __version__
    assert metadata["outputs"] == "end2end"
    assert json.loads(metadata["names"]) == ["class 0", "class 1"]
    assert json.loads(metadata["strides"]) == [8, 16, 32]
    assert (metadata["stride"], metadata["size_multiple"], metadata["image_size"]) == ("32", "32", "[64, 64]")
    assert json.loads(metadata["preprocessing"])["channels"] == "BGR"
    assert json.loads(metadata["thresholds"]) == {"conf": 0.03, "iou": 0.5, "max_detections": 300}
    assert (
        Config.model_validate_json(metadata["config"]).model.type == read_weights(tiny_weights_file).config.model.type
    )
