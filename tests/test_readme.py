"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from yolov6_ignite.handlers import Handler

from yolov6_ignite import export
from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.config_file import load_config
from yolov6_ignite.models import build_model

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def python_block(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


def test_composing_in_python(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yolov6_ignite

    load = yolov6_ignite.load_config
    monkeypatch.setattr("yolov6_ignite.load_config", lambda *_: load(tiny_recipe, ["train.epochs=1"]), raising=False)
    names: dict[str, Any] = {}
    exec(python_block("build_training(load_config"), names)
    assert names["training"].finished_epochs == 1
    assert "prediction_images" not in names["training"].handlers


def test_a_handler_of_your_own() -> None:
    posted: list[tuple[str, str]] = []
    names: dict[str, Any] = {"post": lambda channel, text: posted.append((channel, text))}
    exec(python_block("class SlackNotifier"), names)
    handler = names["SlackNotifier"]("#train")
    assert isinstance(handler, Handler)
    handler(SimpleNamespace(state=SimpleNamespace(validation={"val/mAP@0.50:0.95": 0.5})))
    assert posted == [("#train", "AP 0.500")]


@pytest.mark.slow
def test_an_exported_file_with_onnxruntime_alone(
    tiny_recipe: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    weights = tmp_path / "weights.pt"
    config = load_config(tiny_recipe)
    torch.manual_seed(0)
    model = build_model(config.model, 2)
    saved = {"config": config.model_dump(mode="json"), "names": ["blue", "green"], "metrics": {}, "epoch": 0}
    write_weights(weights, state=model.state_dict(), **saved)  # type: ignore[arg-type]
    options = ["--preprocess", "--end2end", "onnxruntime", "--conf-threshold", "0.001", "--max-detections", "5"]
    assert export.main([str(weights), "--output", str(tmp_path / "detector.onnx"), *options]) == 0
    shutil.copy(tiny_dataset.parent / "images" / "val" / "0.png", tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    printed: list[tuple[Any, ...]] = []
    exec(python_block("onnxruntime.InferenceSession"), {"print": lambda *values: printed.append(values)})
    assert len(printed) == 5
    assert all(name in {"blue", "green"} and 0 < score < 1 and box.shape == (4,) for name, score, box in printed)
