"""Every training mode from a recipe to its checkpoint, through the same door."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from test_training import assert_equal, state_of
from torch import nn
from yolov6_ignite.handlers import LearningRateCurve, StopRequest

from yolov6_ignite import build_training, load_config, train
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import ConfigError, StoppedError, UserError
from yolov6_ignite.losses import build_loss
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
    """Stopped inside an epoch, with gradients of an open accumulation window, and run to its end."""
    cut = build_training(load_config(recipe, ["train.name=cut", *overrides]))

    @cut.engine.on(Events.ITERATION_STARTED(once=7))
    def stop(engine: Engine) -> None:
        engine.state.stop_request = StopRequest(75, "enough")

    with pytest.raises(UserError, match="enough"):
        cut.run()
    saved = read_checkpoint(weights(cut, "last_ckpt"))
    assert saved["engine"]["iteration"] == 7
    assert saved["engine"]["iteration"] % saved["engine"]["epoch_length"] != 0
    assert saved["handlers"]["accumulation"]["gradients"]
    return run(recipe, "cut", "train.resume=auto", *overrides)


def assert_same_end(first: Training, second: Training) -> None:
    """Model, average, states of the optimizer and of the handlers, bit for bit."""
    assert_equal(state_of(second.run_dir), state_of(first.run_dir))


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
    other = run(tiny_recipe, "other", *DFL, *ONE_EPOCH, "train.seed=1")
    shutil.copy(weights(other), weights(teacher))
    with pytest.raises(ConfigError, match=r"weights of distill\.teacher have changed"):
        run(tiny_recipe, "cut", *given, "train.epochs=5", "train.resume=auto")


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


def test_what_is_frozen_stays_frozen_in_a_resumed_run(tiny_recipe: Path) -> None:
    source = run(tiny_recipe, "source", *ONE_EPOCH)
    given = [f"train.weights={weights(source)}", "train.freeze=[backbone]"]
    whole = run(tiny_recipe, "whole", *given)
    resumed = stopped_and_resumed(tiny_recipe, *given)
    assert not any(parameter.requires_grad for parameter in resumed.model.backbone.parameters())
    before, after = (model.backbone.state_dict() for model in (load_model(weights(source)), resumed.model))
    for key, value in after.items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, before[key]), key
    assert_same_end(whole, resumed)


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


@pytest.fixture
def unbalanced_dataset(tiny_dataset: Path, tmp_path: Path) -> str:
    """The second class is in 1 of 10 training images, and in all validation images."""
    root = tmp_path / "unbalanced"
    shutil.copytree(tiny_dataset.parent, root)
    for number in range(1, 10):
        label = root / "labels" / "train" / f"{number}.txt"
        label.write_text(label.read_text().splitlines()[0] + "\n")
    return f"data.dataset={root / tiny_dataset.name}"


def test_class_weights_change_the_objective_and_not_the_validation_loss(
    tiny_recipe: Path, unbalanced_dataset: str
) -> None:
    """The classes of the validation images are balanced: weights made of them would be 1 and change nothing."""
    trained, validated = {}, {}
    for kind in ("none", "inverse"):
        overrides = [unbalanced_dataset, f"data.class_weights={kind}", f"train.name={kind}", "eval.loss=true"]
        training = build_training(load_config(tiny_recipe, overrides))
        validated[kind] = training.handlers["evaluation"].evaluate(training.model.eval())
        training.model.train()

        @training.engine.on(Events.ITERATION_COMPLETED(once=1))
        def keep(engine: Engine, kind: str = kind) -> None:
            trained[kind] = {name: float(value) for name, value in engine.state.output.items()}
            engine.terminate()

        with pytest.raises(StoppedError):
            training.run()
    assert trained["inverse"]["iou"] == trained["none"]["iou"]  # the same batch and model
    assert trained["inverse"]["cls"] != trained["none"]["cls"]
    assert validated["none"]["val/cls_loss"] > 0
    assert validated["inverse"] == validated["none"]


@pytest.fixture
def watched_losses(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The objectives that are built for training."""
    losses: list[nn.Module] = []

    def build(*args: Any, **kwargs: Any) -> nn.Module:
        losses.append(build_loss(*args, **kwargs))
        return losses[-1]

    monkeypatch.setattr("yolov6_ignite.training.build_loss", build)
    return losses


@pytest.mark.parametrize(
    ("repeat_factor", "expected"),
    [(0, [11 / 2 / 10, 11 / 2 / 1]), (0.9, [15 / 2 / 12, 15 / 2 / 3])],
    ids=["shown once", "the rare one shown three times"],
)
def test_class_weights_are_those_of_the_objects_shown(
    tiny_recipe: Path,
    unbalanced_dataset: str,
    watched_losses: list[nn.Module],
    repeat_factor: float,
    expected: list[float],
) -> None:
    overrides = [unbalanced_dataset, "data.class_weights=inverse", f"data.repeat_factor={repeat_factor}"]
    build_training(load_config(tiny_recipe, overrides))
    (loss,) = watched_losses
    assert isinstance(loss.class_weights, torch.Tensor)
    assert loss.class_weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("repeat_factor", "iterations"), [(0, 5), (0.9, 6)])
def test_repeated_images_lengthen_the_epoch(
    tiny_recipe: Path, unbalanced_dataset: str, repeat_factor: float, iterations: int
) -> None:
    """An image whose class is in a tenth of them, instead of nine tenths, is shown three times: 12 for 10."""
    given = [unbalanced_dataset, f"data.repeat_factor={repeat_factor}", "data.batch_size=2", *ONE_EPOCH]
    training = run(tiny_recipe, "repeated", *given)
    assert training.engine.state.iteration == len(training.train_loader) == iterations


def test_the_teacher_predicts_in_the_precision_of_the_run(tiny_recipe: Path, watched_losses: list[nn.Module]) -> None:
    teacher = run(tiny_recipe, "teacher", *DFL, *ONE_EPOCH)
    overrides = [*DFL, *ONE_EPOCH, f"distill.teacher={weights(teacher)}", "train.precision=bf16"]
    student = build_training(load_config(tiny_recipe, overrides))
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    watched_losses[-1].register_forward_pre_hook(
        lambda module, given, named: seen.append((given[0].logits.dtype, named["teacher"].logits.dtype)),
        with_kwargs=True,
    )
    student.run()
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 3


def test_automatic_batch_size_is_resolved_and_kept(tiny_recipe: Path) -> None:
    training = run(tiny_recipe, "auto", "data.batch_size=auto", *ONE_EPOCH)
    assert training.config.data.batch_size == 10  # all images
    assert "batch_size: 10" in (training.run_dir / "config.yaml").read_text()
    resumed = build_training(
        load_config(
            tiny_recipe,
            ["train.name=auto", "data.batch_size=auto", *ONE_EPOCH, "train.epochs=2", "train.resume=auto"],
        )
    )
    assert resumed.config.data.batch_size == 10


def test_learning_rate_search(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main([str(tiny_recipe), "train.find_lr=true", "solver.nominal_batch_size=4"]) == 0
    assert "try solver.lr0=" in capsys.readouterr().err
    header, *curve = (tmp_path / "runs" / "run" / "learning_rate.csv").read_text().splitlines()
    assert header == "solver.lr0,loss"
    assert len(curve) > 10
    assert not (tmp_path / "runs" / "run" / "weights" / "last_ckpt.pt").exists()


def test_learning_rate_search_knows_batch_and_window(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: dict[str, Any] = {}
    curve = LearningRateCurve((0.001, 0.002), (2.0, 1.0))

    def search(*args: Any, **kwargs: Any) -> LearningRateCurve:
        searched.update(kwargs, parts=args)
        return curve

    monkeypatch.setattr("yolov6_ignite.learning_rate_search.find_learning_rate", search)
    reference = ["solver.reference_world_size=2", "solver.reference_device_batch=16", "solver.nominal_batch_size=64"]
    training = build_training(load_config(tiny_recipe, reference))
    assert training.find_learning_rate() is curve
    assert searched["per_lr0"] == 4 / 32
    assert searched["window"] == 64 / 4
    assert searched["restore"] == [training.model]
    engine, loader, optimizer, scaler = searched["parts"]
    assert engine is not training.engine
    assert loader is training.train_loader
    assert optimizer is training.optimizer
    assert scaler is training.scaler


def test_a_tracker_without_its_package(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train.main([str(tiny_recipe), "logging.trackers=[neptune]"]) == 2
    assert "pip install 'yolov6-ignite[neptune]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
