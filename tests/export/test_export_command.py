"""The export command: TorchScript files, and one message for what cannot be done."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov6_ignite import cli, export
from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.exporting.runtimes import run_torchscript
from yolov6_ignite.exporting.torchscript_file import METADATA_FILE
from yolov6_ignite.weights import load_model, read_weights


@pytest.fixture
def arguments(tiny_weights_file: Path, tmp_path: Path) -> list[str]:
    return [str(tiny_weights_file), "--output", str(tmp_path / "model.torchscript"), "--format", "torchscript"]


@pytest.fixture
def output(arguments: list[str]) -> Path:
    return Path(arguments[2])


def refused(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command and checks that it ends with one message, which is returned."""
    assert export.main(arguments) == code
    *before, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert all(line.endswith("exporting, then running the file beside the model ...") for line in before)
    return error


def test_torchscript_gives_the_model_s_outputs_for_any_batch_and_size(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.torchscript"
    options = ["--format", "torchscript", "--output", str(file), "--image-size", "64", "96"]
    assert cli.main(["export", str(tiny_weights_file), *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{file}: exporting, then running the file beside the model ...\n"
    printed = captured.out
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
    assert (metadata["batch_size"], metadata["dynamic_size"]) == ("null", "true")


@pytest.mark.parametrize("options", [[], ["--raw-levels", "--preprocess"]])
def test_torchscript_makes_its_anchors_where_the_images_are(options: list[str], arguments: list[str]) -> None:
    assert export.main([*arguments, *options]) == 0
    graph = torch.jit.load(arguments[2]).inlined_graph
    kinds = [node.output().type().kind() for node in graph.findAllNodes("prim::Constant")]
    assert "IntType" in kinds
    assert "DeviceObjType" not in kinds
    assert bool(graph.findAllNodes("prim::device")) == (not options)


def test_half_torchscript_of_raw_levels_with_preprocessing(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.torchscript"
    options = ["--format", "torchscript", "--output", str(file), "--half", "--preprocess", "--raw-levels"]
    assert export.main([str(tiny_weights_file), *options]) == 0
    printed = capsys.readouterr().out
    assert "images: any x 3 x height x width (multiples of 32), BGR uint8" in printed
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
        (["--format", "torchscript", "--batch-size", "2"], "--batch-size: is of --format onnx, not of torchscript"),
        (["--opset", "17"], "--opset: 17 is not supported; choose 18 to 22"),
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
    options: list[str], message: str, arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options if "--format" in options else ["--format", "onnx", *options]
    error = refused([*arguments, *options], 2, capsys)
    assert re.search(message, error), error
    assert list(output.parent.iterdir()) == []


def test_a_missing_package_names_the_extra(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in {"onnx", "onnxscript", "onnxruntime", "onnxslim"} else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    error = refused([*arguments, "--format", "onnx"], 2, capsys)
    assert "--format onnx: the package onnx is not installed; run pip install 'yolov6-ignite[export]'" in error


def test_files_that_are_there_stay(arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output.write_text("mine")
    assert "is there already" in refused(arguments, 2, capsys)
    assert output.read_text() == "mine"
    for name, message in (("no/x.torchscript", "there is no folder"), ("x.onnx", "ends in .torchscript")):
        assert message in refused([*arguments, "--output", str(output.parent / name)], 2, capsys)


def test_a_file_that_appears_meanwhile_stays(
    arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(content: bytes, name: Path) -> Any:
        output.write_text("of somebody else")
        return run_torchscript(content, name)

    monkeypatch.setattr("yolov6_ignite.exporting.export.run_torchscript", run)
    assert f"{output}: has appeared meanwhile, and stays" in refused(arguments, 2, capsys)
    assert output.read_text() == "of somebody else"
    assert list(output.parent.iterdir()) == [output]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert export.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {output}: cannot be written (Permission denied)")


def test_nothing_is_left_of_an_interrupted_export(
    arguments: list[str], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(content: bytes, name: Path) -> Any:
        assert name.read_bytes() == content
        raise KeyboardInterrupt

    monkeypatch.setattr("yolov6_ignite.exporting.export.run_torchscript", run)
    with pytest.raises(KeyboardInterrupt):
        export.main(arguments)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("options", "advice"), [([], ""), (["--half"], "; try without --half")])
def test_a_file_that_differs_is_kept_under_another_name_and_told_by_exit_code_1(
    options: list[str],
    advice: str,
    arguments: list[str],
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(content: bytes, name: Path) -> Any:
        module = torch.jit.load(io.BytesIO(content))
        return lambda images: [module(images)[0] * 1.1]

    monkeypatch.setattr("yolov6_ignite.exporting.export.run_torchscript", run)
    kept = output.with_name("model.torchscript.failed")
    kept.write_text("of the export before")
    error = refused([*arguments, *options], 1, capsys)
    assert f"{output}: is not usable: its outputs are not the model's: " in error
    assert "(20.0 dB SQNR)" in error
    assert error.endswith(f" dB{advice}; it is kept as {kept}")
    assert list(output.parent.iterdir()) == [kept]
    assert kept.stat().st_size > 10_000


def test_a_file_that_cannot_be_opened_is_kept_under_another_name_and_told_by_exit_code_1(
    arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolov6_ignite.exporting.export.build_torchscript", lambda *_: b"no archive")
    error = refused(arguments, 1, capsys)
    assert f"{output}: is not usable: torch cannot load it (" in error
    assert [path.name for path in output.parent.iterdir()] == ["model.torchscript.failed"]


def test_weights_that_are_not_finite_are_refused_first(
    tiny_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = read_weights(tiny_weights_file)
    weights.state["detect.cls_preds.0.bias"][0] = torch.nan
    config = weights.config.model_dump(mode="json")
    file = tmp_path / "broken.pt"
    write_weights(file, state=weights.state, config=config, names=weights.names, metrics={}, epoch=1)
    error = refused([str(file), "--format", "torchscript"], 2, capsys)
    assert f"{file}: the weights give numbers that are not finite" in error
    assert list(tmp_path.iterdir()) == [file]
