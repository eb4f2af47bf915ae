"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yolov6_ignite.handlers import Handler

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
