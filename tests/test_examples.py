"""The worked examples of docs/composing.md run as they stand there, on a tiny data set."""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import yolov6_ignite
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import StoppedError

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "composing.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n[^#]*?```python\n(.*?)```", DOCUMENT, flags=re.MULTILINE | re.DOTALL))

Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(tiny_recipe: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the example whose title begins so, in place of `custom` with a tiny recipe; gives its names."""
    load = yolov6_ignite.load_config

    def load_tiny(recipe: str, overrides: list[str] | None = None) -> Any:
        assert recipe == "custom"
        own = [value for value in overrides or [] if not value.startswith("data.dataset=")]
        return load(tiny_recipe, own)

    def run(title: str) -> dict[str, Any]:
        (code,) = [code for name, code in EXAMPLES.items() if name.startswith(title)]
        module = ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)
        exec(compile(code, title, "exec"), module.__dict__)
        return module.__dict__

    monkeypatch.setattr(yolov6_ignite, "load_config", load_tiny, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night.yaml").write_text(tiny_dataset.read_text().replace("path: .", f"path: {tiny_dataset.parent}"))
    return run


def rows(names: dict[str, Any]) -> list[dict[str, str]]:
    with (names["training"].run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_there_are_twelve_of_at_most_25_lines() -> None:
    assert len(EXAMPLES) == 12
    lines = {title: sum(bool(line.strip()) for line in code.splitlines()) for title, code in EXAMPLES.items()}
    assert {title: count for title, count in lines.items() if count > 25} == {}


def test_a_message_on_a_new_best(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("A message")
    told = re.findall(r"epoch (\d+): AP ([\d.]+) is the best so far", capsys.readouterr().out)
    assert told
    assert float(told[-1][1]) == pytest.approx(names["training"].run_dir and names["best"], abs=5e-4)


def test_a_frozen_backbone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, torch.Tensor]] = []
    build = yolov6_ignite.build_training

    def build_and_watch(config: Any) -> Any:
        training = build(config)

        def note(engine: Any) -> None:
            states.append({key: value.clone() for key, value in training.model.state_dict().items()})

        for event in (Events.STARTED, Events.EPOCH_COMPLETED):
            training.engine.add_event_handler(event, note)
        return training

    monkeypatch.setattr(yolov6_ignite, "build_training", build_and_watch, raising=False)
    run("A frozen backbone")
    assert len(states) == 5
    same = [
        {key for key in before if torch.equal(before[key], after[key])} for before, after in itertools.pairwise(states)
    ]
    backbone = {key for key in states[0] if key.startswith("backbone.")}
    assert [backbone <= kept for kept in same] == [True, True, False, False]
    assert any(key.endswith("running_mean") for key in backbone)
    assert all(any(not key.startswith("backbone.") for key in states[0].keys() - kept) for kept in same)


def test_another_learning_rate(run: Run) -> None:
    names = run("Another learning-rate policy")
    assert [float(row["x/lr0"]) for row in rows(names)] == [names["one_cycle"](i).lr[0] for i in (2, 5, 8, 11)]


def test_histograms(run: Run) -> None:
    names = run("Histograms")
    log = EventAccumulator(str(names["training"].run_dir)).Reload()
    histograms = log.Tags()["histograms"]
    assert len(histograms) > 10
    assert {event.step for event in log.Histograms(histograms[0])} <= {4, 8}


def test_weight_averaging(run: Run) -> None:
    names = run("Stochastic weight averaging")
    training = names["training"]
    assert training.handlers["ema"].state_dict() == {"averaged": 3}
    final = read_checkpoint(training.run_dir / "weights" / "final.pt")["model"]
    for key, value in training.handlers["ema"].average.module.state_dict().items():
        assert torch.equal(final[key], value.half() if value.is_floating_point() else value)


def test_a_second_validation_set(run: Run) -> None:
    table = rows(run("A second validation set"))
    assert [bool(row["night/mAP@0.50:0.95"]) for row in table] == [False, True, False, True]
    for row in table[1::2]:  # here it is the first one again
        assert row["night/mAP@0.50:0.95"] == row["val/mAP@0.50:0.95"]


def test_the_hardest_images(run: Run) -> None:
    hardest = run("The hardest images")["hardest"]
    assert [loss for loss, _ in hardest] == sorted((loss for loss, _ in hardest), reverse=True)
    assert len({path for _, path in hardest}) > 1


def test_multi_scale(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    build = yolov6_ignite.build_training

    def build_and_watch(config: Any) -> Any:
        training = build(config)
        training.loss.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs["image_size"][0]), with_kwargs=True
        )
        return training

    monkeypatch.setattr(yolov6_ignite, "build_training", build_and_watch, raising=False)
    run("Multi-scale")
    assert len(sizes) == 12
    assert set(sizes) == {64, 96, 128}


def test_a_counter_that_survives_a_stop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after epoch 2 by a handler, then the same script again; as a run that never stopped."""
    build = yolov6_ignite.build_training

    def build_and_stop(config: Any) -> Any:
        training = build(config)
        training.engine.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
        return training

    monkeypatch.setattr(yolov6_ignite, "build_training", build_and_stop, raising=False)
    with pytest.raises(StoppedError):
        run("A counter")
    monkeypatch.setattr(yolov6_ignite, "build_training", build, raising=False)
    names = run("A counter")
    seen = [float(row["seen_objects"]) for row in rows(names)]
    assert len(seen) == 4
    assert seen == sorted(set(seen))
    saved = read_checkpoint(names["training"].run_dir / "weights" / "last_ckpt.pt")["handlers"]["seen_objects"]
    assert saved == {"objects": seen[-1]}


def test_an_own_loss(run: Run) -> None:
    table = rows(run("A loss of your own"))
    assert all(float(row["train/penalty_loss"]) > 0 for row in table)


def test_an_own_model(run: Run) -> None:
    names = run("A model of your own")
    assert names["training"].finished_epochs == 4
    saved = read_checkpoint(names["training"].run_dir / "weights" / "final.pt")["model"]
    assert all(key.startswith("detector.") for key in saved)


def test_an_engine_of_ones_own(run: Run) -> None:
    engine = run("Our model and loss")["engine"]
    assert set(engine.state.losses) == {"iou", "dfl", "cls"}
    averaged, live = engine.state.ema_model.state_dict(), run("Our model and loss")["model"].state_dict()
    assert averaged.keys() == live.keys()
