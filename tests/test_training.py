"""Whole runs on a tiny data set: what they leave, resume, finished and refused runs."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import ModelEMA, StopRequest

from yolov6_ignite import Training, build_training, load_config, load_model
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import ConfigError, StoppedError, UserError


def build(recipe: Path, *overrides: str) -> Training:
    return build_training(load_config(recipe, overrides))


def test_a_run_leaves_what_the_documentation_says(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "checkpoint.last_n_epochs=2", "logging.train_batch_images=true")
    training.run()
    run = training.run_dir
    assert {p.name for p in (run / "weights").iterdir()} == {
        "last_ckpt.pt",
        "last_ckpt.previous.pt",
        "best_ckpt.pt",
        "best_stop_aug_ckpt.pt",
        "2_ckpt.pt",
        "3_ckpt.pt",
        "final.pt",
    }
    kinds = {p.name: read_checkpoint(p)["kind"] for p in (run / "weights").iterdir()}
    assert {name for name, kind in kinds.items() if kind == "training"} == {"last_ckpt.pt", "last_ckpt.previous.pt"}
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0])[:6] == [
        "epoch",
        "train/iou_loss",
        "train/dfl_loss",
        "train/cls_loss",
        "val/mAP@0.5",
        "val/mAP@0.50:0.95",
    ]
    assert [row["val/mAP@0.5"] != "" for row in rows] == [False, True, False, True]
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "plots" / "precision_recall.png").stat().st_size > 0
    assert "training took" in (run / "train.log").read_text()
    assert load_config(run / "config.yaml") == training.config
    assert training.config.train.precision == "fp32"
    model = load_model(run / "weights" / "final.pt")
    assert model.names == ["blue", "green"]
    assert model.stride == 32
    assert not model.training
    averaged = training.ema_model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, averaged[key].half().float() if value.is_floating_point() else averaged[key])
    deployed = load_model(run / "weights" / "final.pt", deploy=True)
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(model(images), deployed(images), atol=1e-3)


def state_of(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path / "weights" / "last_ckpt.pt")
    return {key: content[key] for key in ("model", "ema", "optimizer", "handlers", "engine", "epoch", "metrics")}


def assert_equal(ours: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(ours, expected), where
    elif isinstance(expected, dict):
        assert ours.keys() == expected.keys(), where
        for key in expected:
            assert_equal(ours[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(ours) == len(expected), where
        for index, (a, b) in enumerate(zip(ours, expected, strict=True)):
            assert_equal(a, b, f"{where}.{index}")
    else:
        assert ours == expected, where


def stop_after(training: Training, iteration: int) -> None:
    @training.engine.on(Events.ITERATION_COMPLETED)
    def ask(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            engine.state.stop_request = StopRequest(75, "test")

    training.handlers["stop"].attach(training.engine)  # behind the request
    with pytest.raises(UserError, match="test") as caught:
        training.run()
    assert caught.value.exit_code == 75
    assert (training.run_dir / "stopped.json").read_text() == '{"exit_code": 75, "reason": "test"}\n'


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_resume_equals_never_having_stopped(tiny_recipe: Path, workers: int) -> None:
    """At an epoch's end, inside an epoch with an open accumulation window, and behind the cutoff."""
    overrides = [f"data.workers={workers}", "data.batch_size=4", "train.resume=auto"]
    whole = build(tiny_recipe, *overrides, "train.name=whole")
    whole.run()
    stopped = [*overrides, "train.name=stopped"]
    for iteration in (1, 3, 5, 11):
        stop_after(build(tiny_recipe, *stopped), iteration)
    build(tiny_recipe, *stopped).run()
    resumed_dir = whole.run_dir.parent / "stopped"
    assert_equal(state_of(resumed_dir), state_of(whole.run_dir))
    assert (resumed_dir / "metrics.csv").read_bytes() == (whole.run_dir / "metrics.csv").read_bytes()
    assert not (resumed_dir / "stopped.json").exists()
    final = [read_checkpoint(run / "weights" / "best_ckpt.pt")["model"] for run in (resumed_dir, whole.run_dir)]
    assert_equal(*final)


def test_a_finished_run_says_so_and_can_be_extended(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    weights = first.run_dir / "weights"
    before = (weights / "final.pt").read_bytes()
    with caplog.at_level("INFO", "yolov6_ignite"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=2").run()
    assert "is finished (2 epochs): nothing to resume" in caplog.text
    assert (weights / "final.pt").read_bytes() == before
    (weights / "final.pt").unlink()  # cut off while stripping
    build(tiny_recipe, "train.resume=auto", "train.epochs=2").run()
    assert read_checkpoint(weights / "final.pt")["epoch"] == 2
    longer = build(tiny_recipe, f"train.resume={weights / 'last_ckpt.pt'}", "train.epochs=3")
    longer.run()
    assert longer.run_dir.resolve() == first.run_dir.resolve()
    assert read_checkpoint(weights / "final.pt")["epoch"] == 3


def test_a_damaged_last_checkpoint_falls_back(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    last = first.run_dir / "weights" / "last_ckpt.pt"
    last.write_bytes(last.read_bytes()[:5000])
    resumed = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    assert resumed.finished_epochs == 1
    assert "damaged" in caplog.text


def test_another_run_is_not_resumed(tiny_recipe: Path) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    with pytest.raises(ConfigError, match=r"solver\.lr0: 0\.02 -> 0\.5"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=3", "solver.lr0=0.5")
    with pytest.raises(ConfigError, match=r"model\.width_multiple"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=3", "model.width_multiple=0.125")
    with pytest.raises(ConfigError, match="stripped"):
        build(tiny_recipe, f"train.resume={first.run_dir / 'weights' / 'final.pt'}", "train.epochs=3")
    allowed = ["train.epochs=3", "eval.interval=1", "logging.interval=3", "checkpoint.every_iterations=1"]
    assert build(tiny_recipe, "train.resume=auto", *allowed).finished_epochs == 2


def test_a_replaced_handler_goes_on_from_the_checkpoint(tiny_recipe: Path) -> None:
    stop_after(build(tiny_recipe, "train.resume=auto"), 5)
    saved = read_checkpoint(tiny_recipe.parent / "runs" / "run" / "weights" / "last_ckpt.pt")
    resumed = build(tiny_recipe, "train.resume=auto")
    resumed.handlers.replace("ema", ModelEMA(resumed.model))
    assert resumed.handlers["ema"].updates == saved["handlers"]["ema"]["updates"] > 0

    @resumed.engine.on(Events.STARTED)
    def check(engine: Engine) -> None:
        assert_equal(dict(engine.state.ema_model.state_dict()), dict(saved["ema"]))
        engine.terminate()

    with pytest.raises(StoppedError, match=r"engine\.terminate\(\)"):
        resumed.run()


def test_without_an_average_a_resumed_run_keeps_its_own_weights(tiny_recipe: Path) -> None:
    stop_after(build(tiny_recipe, "train.resume=auto"), 5)
    saved = read_checkpoint(tiny_recipe.parent / "runs" / "run" / "weights" / "last_ckpt.pt")
    resumed = build(tiny_recipe, "train.resume=auto")
    resumed.handlers.remove("ema")

    @resumed.engine.on(Events.STARTED)
    def check(engine: Engine) -> None:
        assert_equal(dict(resumed.model.state_dict()), dict(saved["model"]))
        engine.terminate()

    with pytest.raises(StoppedError, match=r"engine\.terminate\(\)"):
        resumed.run()


def test_an_image_that_turns_bad_ends_the_run(tiny_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dataset.parent, tmp_path / "data")
    training = build(tiny_recipe, f"data.dataset={tmp_path / 'data' / 'tiny.yaml'}", "data.on_bad_image=error")
    for image in (tmp_path / "data" / "images" / "train").iterdir():
        image.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        training.run()
    assert caught.value.exit_code == 3
    assert '"exit_code": 3' in (training.run_dir / "stopped.json").read_text()


def test_a_refused_run_leaves_nothing_behind(tiny_recipe: Path, tmp_path: Path) -> None:
    for overrides in (["data.dataset=nowhere.yaml"], ["train.weights=nothing.pt"], ['handlers=[{"no:Where": {}}]']):
        with pytest.raises(UserError):
            build(tiny_recipe, *overrides)
    assert not (tmp_path / "runs").exists()
    build(tiny_recipe, "train.resume=auto", "train.epochs=1").run()
    before = sorted(p.name for p in (tmp_path / "runs" / "run").iterdir())
    with pytest.raises(ConfigError, match="not the run"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=2", "train.seed=5")
    assert sorted(p.name for p in (tmp_path / "runs" / "run").iterdir()) == before


def test_a_checkpoint_outside_a_run_is_not_resumed_into_its_surroundings(tiny_recipe: Path, tmp_path: Path) -> None:
    first = build(tiny_recipe, "train.epochs=1")
    first.run()
    copy = tmp_path / "keep" / "last.pt"
    copy.parent.mkdir()
    copy.write_bytes((first.run_dir / "weights" / "last_ckpt.pt").read_bytes())
    with pytest.raises(ConfigError, match="not in the `weights` folder of a run"):
        build(tiny_recipe, f"train.resume={copy}", "train.epochs=2")
    assert sorted(p.name for p in copy.parent.iterdir()) == ["last.pt"]


def test_a_run_starts_once(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "train.epochs=1")
    training.run()
    with pytest.raises(RuntimeError, match="started before"):
        training.run()


def test_new_runs_take_the_next_free_name(tiny_recipe: Path) -> None:
    names = [build(tiny_recipe).run_dir.name for _ in range(3)]
    assert names == ["run", "run2", "run3"]


def test_start_from_weights(tiny_recipe: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.epochs=1")
    first.run()
    final = first.run_dir / "weights" / "final.pt"
    second = build(tiny_recipe, f"train.weights={final}")
    given = read_checkpoint(final)["model"]
    for key, value in second.model.state_dict().items():
        assert torch.allclose(value.float(), given[key].float())
    more_classes = tiny_dataset.with_name("more.yaml")
    more_classes.write_text(tiny_dataset.read_text().replace("green]", "green, red]"))
    with caplog.at_level("INFO", "yolov6_ignite"):
        build(tiny_recipe, f"train.weights={final}", f"data.dataset={more_classes}")
    assert "6 entries fresh: detect.cls_preds.0.bias" in caplog.text
    with pytest.raises(ConfigError, match="of another model"):
        build(tiny_recipe, f"train.weights={final}", "model.width_multiple=0.25")


def test_non_finite_gradients_end_the_run(tiny_recipe: Path) -> None:
    training = build(
        tiny_recipe, "train.max_bad_steps=2", "data.batch_size=10", "train.epochs=4", "augment.stop_last_n_epochs=0"
    )
    step: Callable[..., Any] = training.engine._process_function

    def poisoned(engine: Engine, batch: Any) -> Any:
        if engine.state.iteration > 1:
            batch.targets[:, 2:] *= float("nan")
        return step(engine, batch)

    training.engine._process_function = poisoned
    with pytest.raises(UserError, match="not finite for 2 optimizer steps in a row") as caught:
        training.run()
    assert caught.value.exit_code == 4
    assert torch.load(training.run_dir / "bad_batch_rank0.pt", weights_only=True)["targets"].isnan().any()
    assert all(torch.isfinite(v).all() for v in training.model.state_dict().values())
