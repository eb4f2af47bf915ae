"""The export command: TorchScript files, and one message for what cannot be done."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov6_ignite import cli, export
from yolov6_ignite.exporting.torchscript_file import METADATA_FILE
from yolov6_ignite.weights import load_model


@pytest.fixture
def arguments(tiny_weights_file: Path, tmp_path: Path) -> list[str]:
    return [str(tiny_weights_file), "--output", str(tmp_path / "model.file")]


def refused(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command and checks that it ends with one message, which is returned."""
    assert export.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_torchscript_gives_the_model_s_outputs_for_any_batch_and_size(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.torchscript"
    options = ["--format", "torchscript", "--output", str(file), "--image-size", "64", "96", "--dynamic-size"]
    assert cli.main(["export", str(tiny_weights_file), *options]) == 0
    printed = capsys.readouterr().out
    assert "images: any x 3 x height x width (multiples of 32), RGB float32 in [0, 1]" in printed
    assert "outputs: outputs" in printed
    assert "7 images in batches of 1, 3: boxes differ by at most" in printed
    extra = {METADATA_FILE: ""}
    module, model = torch.jit.load(str(file), _extra_files=extra), load_model(tiny_weights_file)
    for shape in ((1, 3, 64, 96), (5, 3, 32, 160)):
        images = torch.rand(shape)
        torch.testing.assert_close(module(images)[0], model(images), rtol=1e-4, atol=1e-4)
    metadata = json.loads(extra[METADATA_FILE])
    assert json.loads(metadata["names"]) == ["class 0", "class 1"]
    assert (metadata["stride"], metadata["size_multiple"], metadata["image_size"]) == ("32", "32", "[64, 96]")


def test_half_torchscript_of_raw_levels_with_preprocessing(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.torchscript"
    options = ["--format", "torchscript", "--output", str(file), "--half", "--preprocess", "--raw-levels"]
    assert export.main([str(tiny_weights_file), *options, "--batch-size", "2"]) == 0
    printed = capsys.readouterr().out
    assert "images: 2 x 3 x 64 x 64, BGR uint8" in printed
    assert "outputs: stride_8, stride_16, stride_32" in printed
    levels = torch.jit.load(str(file))(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert [(level.dtype, tuple(level.shape)) for level in levels] == [
        (torch.float16, (2, 6, 64 // stride, 64 // stride)) for stride in (8, 16, 32)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "torchscript", "--opset", "18"], "--opset: is of --format onnx, not of torchscript"),
        (["--format", "torchscript", "--simplify"], "--simplify: is of --format onnx"),
        (["--format", "torchscript", "--end2end", "onnxruntime"], "--end2end: is of --format onnx"),
        (["--format", "torchscript", "--target", "tensorrt"], "--target: is of --format onnx, not of torchscript"),
        (["--opset", "17"], "--opset: 17 is not supported; choose 18 to 25"),
        (["--end2end", "onnxruntime", "--raw-levels"], "choose one of them"),
        (["--end2end", "onnxruntime", "--dynamic-size"], "--dynamic-size: does not go with --end2end"),
        (["--end2end", "onnxruntime", "--conf-threshold", "1.5"], "--conf-threshold: 1.5 is not from 0 to 1"),
        (["--end2end", "onnxruntime", "--max-detections", "0"], "--max-detections: 0"),
        (["--iou-threshold", "0.5"], "only have a meaning with --end2end"),
        (["--batch-size", "0"], "--batch-size: 0 is no number of images"),
        (["--format", "torchscript", "--image-size", "100"], "--image-size: 100 x 100 px: .* multiples of 32"),
        (["--format", "torchscript", "--image-size", "64", "-32"], "--image-size: 64 x -32 px"),
        (["--image-size", "64", "64", "64"], "--image-size: give one side in pixels, or height and width"),
        (["--format", "torchscript", "--images", "nowhere"], "--images: nowhere is no folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    options: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused([*arguments, *options], 2, capsys)
    assert re.search(message, error), error
    assert not Path(arguments[-1]).exists()


def test_a_missing_package_names_the_extra(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in {"onnx", "onnxscript", "onnxruntime", "onnxslim"} else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    error = refused(arguments, 2, capsys)
    assert "--format onnx: the package onnx is not installed; run pip install 'yolov6-ignite[export]'" in error


def test_files_that_are_there_stay(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = Path(arguments[-1])
    output.write_text("mine")
    assert "is there already" in refused([*arguments, "--format", "torchscript"], 2, capsys)
    assert output.read_text() == "mine"
    assert "there is no folder" in refused(
        [arguments[0], "--output", str(tmp_path / "no" / "x"), "--format", "torchscript"], 2, capsys
    )


def test_a_file_that_differs_is_kept_and_told_by_exit_code_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(content: bytes) -> Any:
        module = torch.jit.load(io.BytesIO(content))
        return lambda images: [module(images)[0] * 1.01]

    monkeypatch.setattr("yolov6_ignite.exporting.export.run_torchscript", run)
    error = refused([*arguments, "--format", "torchscript"], 1, capsys)
    assert "its outputs are not the model's" in error
    assert "(40.0 dB SQNR)" in error
    assert Path(arguments[-1]).stat().st_size > 10_000
