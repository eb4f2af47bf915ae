"""Every training mode from a recipe to its checkpoint, through the same door."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import StopRequest

from yolov6_ignite import build_training, load_config, train
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import ConfigError, UserError
from yolov6_ignite.optim import RepSGD
from yolov6_ignite.training import Training
from yolov6_ignite.weights import load_model

DFL = ["model.head.use_dfl=true", "model.head.reg_max=16"]
ONE_EPOCH = ["train.epochs=1", "augment.stop_last_n_epochs=-1"]
REPOPT_NECK = ["model.backbone.fuse_P2=false", "model.neck.type=RepPANNeck"]


def run(recipe: Path, name: str, *overrides: str) -> Training:
    training = build_training(load_config(recipe, [f"train.name={name}", *overrides]))
    training.run()
    return training


def rows(training: Training) -> list[dict[str, str]]:
    with (training.run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(training: Training, name: str = "best_ckpt") -> Path:
    return training.run_dir / "weights" / f"{name}.pt"


def stopped_and_resumed(recipe: Path, *overrides: str) -> Training:
    cut = build_training(load_config(recipe, ["train.name=cut", *overrides]))

    @cut.engine.on(Events.ITERATION_COMPLETED(once=5))
    def stop(engine: Engine) -> None:
        engine.state.stop_request = StopRequest(75, "enough")

    with pytest.raises(UserError, match="enough"):
        cut.run()
    return run(recipe, "cut", "train.resume=auto", *overrides)


def assert_same_end(first: Training, second: Training) -> None:
    a, b = (read_checkpoint(weights(training, "last_ckpt")) for training in (first, second))
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])


@pytest.mark.parametrize("model_type", ["YOLOv6n", "YOLOv6m"], ids=["n and s", "others"])
def test_anchor_aided_then_self_distillation(
    model_type: str, tiny_recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [f"model.type={model_type}", *DFL]
    base = run(tiny_recipe, "base", *given, "train.fuse_ab=true")
    assert "detect.cls_preds_ab.0.weight" in base.model.state_dict()
    assert float(rows(base)[-1]["train/dfl_loss"]) > 0

    caplog.clear()
    student = run(
        tiny_recipe, "student", *given, f"distill.teacher={weights(base)}", "distill.features=true", "solver.lr0=0.001"
    )
    messages = [record.getMessage() for record in caplog.records]
    (teacher,) = [message for message in messages if message.startswith("teacher: ")]
    assert messages.index(teacher) < min(i for i, m in enumerate(messages) if m.startswith("epoch 1/"))
    assert all(float(row["train/cwd_loss"]) > 0 for row in rows(student))
    assert ("detect.reg_preds_dist.0.weight" in student.model.state_dict()) == (model_type == "YOLOv6n")
    assert load_model(weights(student)).names == ["blue", "green"]


def test_a_distillation_resumes_as_if_it_had_not_stopped(tiny_recipe: Path) -> None:
    teacher = run(tiny_recipe, "teacher", *DFL, *ONE_EPOCH)
    given = [*DFL, f"distill.teacher={weights(teacher)}", "solver.lr0=0.001"]
    whole = run(tiny_recipe, "whole", *given)
    assert_same_end(whole, stopped_and_resumed(tiny_recipe, *given))


def test_rep_optimizer_in_two_stages(tiny_recipe: Path) -> None:
    search = run(tiny_recipe, "search", *REPOPT_NECK, *ONE_EPOCH, "model.training_mode=hyper_search")
    given = [*REPOPT_NECK, "model.training_mode=repopt", f"model.scales={weights(search)}"]
    whole = run(tiny_recipe, "whole", *given)
    assert isinstance(whole.optimizer, RepSGD)
    assert whole.optimizer.gradient_masks

    resumed = stopped_and_resumed(tiny_recipe, *given)
    assert isinstance(resumed.optimizer, RepSGD)
    assert resumed.optimizer.gradient_masks
    assert_same_end(whole, resumed)


def test_rep_optimizer_needs_its_scales(tiny_recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.scales: is required by model\.training_mode: repopt"):
        run(tiny_recipe, "none", *REPOPT_NECK, "model.training_mode=repopt")
    plain = run(tiny_recipe, "plain", *REPOPT_NECK, *ONE_EPOCH)
    with pytest.raises(ConfigError, match="holds no scales of a hyper-search"):
        run(tiny_recipe, "wrong", *REPOPT_NECK, "model.training_mode=repopt", f"model.scales={weights(plain)}")


def test_fine_tuning_with_a_frozen_backbone(tiny_recipe: Path) -> None:
    source = run(tiny_recipe, "source", *ONE_EPOCH)
    tuned = run(tiny_recipe, "tuned", f"train.weights={weights(source)}", "train.freeze=[backbone]")
    before, after = load_model(weights(source)).state_dict(), tuned.model.state_dict()
    same = [key for key in after if torch.equal(after[key], before[key])]
    frozen = [key for key in after if key.startswith("backbone.") and not key.endswith("num_batches_tracked")]
    assert set(frozen) <= set(same)
    assert any(key.startswith("neck.") and key not in same for key in after)
    with pytest.raises(ConfigError, match=r"train\.freeze: the network has no module 'backbne'; did you mean backbone"):
        run(tiny_recipe, "bad", "train.freeze=[backbne]")


def test_early_stopping_is_an_end(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = ["train.patience=1", "train.minimum_change=1.0", "eval.interval=1"]
    stopped = run(tiny_recipe, "early", *given)
    assert stopped.finished_epochs == 2
    assert weights(stopped, "final").is_file()
    assert len(rows(stopped)) == 2
    caplog.clear()
    again = run(tiny_recipe, "early", *given, "train.resume=auto")
    assert again.finished_epochs == 2
    assert any("raise train.patience to go on" in record.getMessage() for record in caplog.records)
    on = run(tiny_recipe, "early", "train.patience=9", *given[1:], "train.resume=auto")
    assert on.finished_epochs == 4


def test_time_limit_ends_resumable(tiny_recipe: Path) -> None:
    assert train.main([str(tiny_recipe), "train.time_limit=1e-9"]) == 75
    assert train.main([str(tiny_recipe), "train.resume=auto"]) == 0


def test_numbers_that_can_be_asked_for(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        training = run(
            tiny_recipe,
            "numbers",
            "eval.loss=true",
            "solver.max_gradient_norm=10",
            "train.profile=true",
            "data.class_weights=sqrt_inverse",
            "data.repeat_factor=0.9",
        )
    last = rows(training)[-1]
    assert float(last["x/gradient_norm"]) > 0
    assert float(last["val/cls_loss"]) > 0
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "ms/iteration" in text
    assert "learning_rate, ITERATION_STARTED" in text
    assert "balance of the classes" in text


def test_automatic_batch_size_is_resolved_and_kept(tiny_recipe: Path) -> None:
    training = run(tiny_recipe, "auto", "data.batch_size=auto", *ONE_EPOCH)
    assert training.config.data.batch_size == 16
    assert "batch_size: 16" in (training.run_dir / "config.yaml").read_text()
    resumed = build_training(
        load_config(
            tiny_recipe,
            ["train.name=auto", "data.batch_size=auto", *ONE_EPOCH, "train.epochs=2", "train.resume=auto"],
        )
    )
    assert resumed.config.data.batch_size == 16


def test_learning_rate_search(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main([str(tiny_recipe), "train.find_lr=true", "solver.nominal_batch_size=4"]) == 0
    assert "try solver.lr0=" in capsys.readouterr().err
    header, *curve = (tmp_path / "runs" / "run" / "learning_rate.csv").read_text().splitlines()
    assert header == "solver.lr0,loss"
    assert len(curve) > 10
    assert not (tmp_path / "runs" / "run" / "weights" / "last_ckpt.pt").exists()


def test_a_tracker_without_its_package(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main([str(tiny_recipe), "logging.trackers=[neptune]"]) == 2
    assert "pip install 'yolov6-ignite[neptune]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
