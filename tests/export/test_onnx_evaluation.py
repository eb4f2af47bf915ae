"""``evaluate model.onnx``: the same average precision as the weights it comes from."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from yolov6_ignite import evaluate, export
from yolov6_ignite.checkpoint import read_checkpoint, write_checkpoint, write_weights
from yolov6_ignite.exporting import onnx_detector
from yolov6_ignite.exporting.runtimes import OnnxSession
from yolov6_ignite.exporting.sample_images import sample_batches
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model
from yolov6_ignite.weights import read_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a hundred steps on the tiny data set: enough for some average precision."""
    from yolov6_ignite import train

    folder = tmp_path_factory.mktemp("trained")
    dataset = folder / "data.yaml"  # the more images, the less does one detection count
    dataset.write_text(
        f"path: {tiny_dataset.parent}\ntrain: images/train\nval: [images/train, images/val]\nnames: [blue, green]\n"
    )
    recipe = folder / "tiny.yaml"
    recipe.write_text(
        f"""
base: yolov6n
model: {{type: tiny, width_multiple: 0.125, depth_multiple: 0.1}}
data: {{dataset: {dataset}, image_size: 64, batch_size: 5, workers: 0}}
augment: {{stop_last_n_epochs: 60}}
solver: {{warmup_epochs: 0, warmup_min_iterations: 0, nominal_batch_size: 5, lr0: 0.02}}
train: {{epochs: 60, device: cpu, output_dir: {folder / "runs"}, name: run}}
eval: {{interval: 60, heavy_range: 0, batch_size: 2, conf_threshold: 0.001}}
"""
    )
    assert train.main([str(recipe)]) == 0
    return folder / "runs" / "run" / "weights" / "last_ckpt.pt"


def evaluated(weights: Path, folder: Path, *options: str) -> dict[str, Any]:
    file = folder / "numbers.json"
    assert evaluate.main([str(weights), "--json", str(file), *options]) == 0
    return {key: value for key, value in json.loads(file.read_text()).items() if key != "speed"}


def exported(weights: Path, file: Path, *options: str) -> Path:
    assert export.main([str(weights), "--output", str(file), *options]) == 0
    return file


def test_average_precision_is_that_of_the_weights(trained: Path, tmp_path: Path) -> None:
    file = exported(trained, tmp_path / "any.onnx", "--dynamic-size", "--preprocess")
    expected, found = evaluated(trained, tmp_path), evaluated(file, tmp_path)
    assert expected["mAP@0.50:0.95"] > 0  # there is something to compare
    assert found["mAP@0.50:0.95"] == pytest.approx(expected["mAP@0.50:0.95"], abs=1e-3)
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_integers_are_as_good_as_the_quantised_weights(
    target: Any, trained: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, spec = read_weights(trained), QuantizationSpec(method="max", target=target)
    model = quantized_model(weights.build(), spec)
    images = sample_batches([5], [(64, 64)], tiny_dataset.parent)
    calibrate(model, [batch.float() / 255 for batch in images], spec)
    file = tmp_path / "quantized.pt"
    config = weights.config.model_dump(mode="json")
    rest = {"names": weights.names, "metrics": {}, "epoch": 1, "quantization": spec.to_dict()}
    write_weights(file, state=model.state_dict(), config=config, **rest)  # type: ignore[arg-type]
    expected = evaluated(file, tmp_path)["mAP@0.50:0.95"]
    assert expected > 0  # there is something to compare
    onnx_file = exported(file, tmp_path / "quantized.onnx", "--dynamic-size")
    optimized = evaluated(onnx_file, tmp_path)["mAP@0.50:0.95"]
    assert optimized == pytest.approx(expected, abs=0.05)  # its rounding moves some boxes over thresholds of overlap
    monkeypatch.setattr(onnx_detector, "OnnxSession", functools.partial(OnnxSession, optimized=False))
    assert evaluated(onnx_file, tmp_path)["mAP@0.50:0.95"] == pytest.approx(expected, abs=0.01)


def test_a_file_of_fixed_shape(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(trained, tmp_path / "fixed.onnx", "--batch-size", "3")
    capsys.readouterr()
    found = evaluated(file, tmp_path)
    assert "takes images of 64 x 64 px only: no rectangles" in capsys.readouterr().err
    expected = evaluated(trained, tmp_path, "eval.rect=false", "eval.image_size=64")
    assert found["mAP@0.50:0.95"] == pytest.approx(expected["mAP@0.50:0.95"], abs=1e-3)
    for options, message in (
        (["eval.loss=true"], "has no raw predictions for the loss"),
        (["--device", "cuda"], "is evaluated on the CPU"),
        (["eval.rect=true"], "takes images of 64 x 64 px only; leave eval.rect and sizes away"),
        (["--image-size", "96"], "takes images of 64 x 64 px only; leave eval.rect and sizes away"),
    ):
        assert evaluate.main([str(file), *options]) == 2
        assert message in capsys.readouterr().err


def test_a_file_of_a_fixed_rectangle(trained: Path, tmp_path: Path) -> None:
    content = read_checkpoint(trained)
    content["config"]["data"]["rect"] = True  # trained on rectangles that fit the images
    write_checkpoint(tmp_path / "rectangles.pt", content)
    file = exported(tmp_path / "rectangles.pt", tmp_path / "fixed.onnx", "--image-size", "64", "96")
    rectangle = ("data.image_size=[64,96]", "eval.rect=false")
    found, expected = evaluated(file, tmp_path), evaluated(trained, tmp_path, *rectangle)
    assert found["mAP@0.50:0.95"] == pytest.approx(expected["mAP@0.50:0.95"], abs=1e-3)


def test_files_that_are_no_detectors_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = exported(trained, tmp_path / "raw.onnx", "--raw-levels")
    capsys.readouterr()
    model = onnx.load(raw)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for name, message in (
        ("raw.onnx", "gives raw-levels, which cannot be evaluated"),
        ("foreign.onnx", "was not exported by this project"),
        ("damaged.onnx", "onnxruntime cannot run it"),
        ("missing.onnx", "there is no such file"),
    ):
        assert evaluate.main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
