"""Parts of one's own in place of configured ones, the result of a run, and what a script sees of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn

from yolov6_ignite import build_evaluation, build_loss, build_model, build_training, load_config
from yolov6_ignite.config import Config
from yolov6_ignite.data import Batch
from yolov6_ignite.errors import ConfigError, DatasetError, StoppedError


class ListLoader:
    """The batches of another loader, as a user may have them: a length and an iterator, nothing else."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.passes = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.batches)


@pytest.fixture
def config(tiny_recipe: Path) -> Config:
    return load_config(tiny_recipe, ["train.epochs=2"])


def batches_of(config: Config, name: str) -> tuple[ListLoader, ListLoader]:
    """Training and validation batches of the configured data."""
    training = build_training(config.model_copy(update={"train": config.train.model_copy(update={"name": name})}))
    return ListLoader(list(training.train_loader)), ListLoader(list(training._evaluation.loader))


def test_loaders_of_ones_own(config: Config) -> None:
    train_loader, val_loader = batches_of(config, "source")
    training = build_training(config, train_loader=train_loader, val_loader=val_loader)
    assert "augmentation_cutoff" not in training.handlers
    assert training.train_loader is train_loader
    result = training.run()
    assert training.engine.state.iteration == 2 * len(train_loader)
    assert train_loader.passes == 2
    # The ground truth read off the batches is that of the files.
    expected = build_evaluation(config)(training.ema_model)
    assert training.evaluator.state.coco.stats == pytest.approx(expected.stats, abs=1e-3)
    counted = [(row.name, row.images, row.instances) for row in training.evaluator.state.coco.per_class]
    assert counted == [(row.name, row.images, row.instances) for row in expected.per_class]
    assert (training.run_dir / "plots" / "prediction_1.jpg").exists()
    assert result.last["epoch"] == 2


def test_ground_truth_of_own_batches_is_that_of_the_files(config: Config) -> None:
    _, val_loader = batches_of(config, "source")
    training = build_training(config, val_loader=val_loader)
    own = training._evaluation.metric._truth.coco.dataset["annotations"]
    files = build_evaluation(config).metric._truth.coco.dataset["annotations"]
    assert len(own) == len(files) > 0
    for ours, theirs in zip(own, files, strict=True):
        assert ours["image_id"] == theirs["image_id"]
        assert ours["category_id"] == theirs["category_id"]
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.01)


def test_validation_batches_that_cannot_be_ground_truth_are_refused(config: Config) -> None:
    train_loader, val_loader = batches_of(config, "source")
    with pytest.raises(DatasetError, match="letterbox"):
        build_training(config, val_loader=train_loader)
    shifted = ListLoader([batch._replace(indices=batch.indices + 7) for batch in val_loader])
    with pytest.raises(DatasetError, match=r"indices of its batches must be 0 to n - 1"):
        build_training(config, val_loader=shifted)


class Wrapped(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> Any:
        return self.detector(images)


def test_a_model_of_ones_own_resumes_bit_for_bit(tiny_recipe: Path) -> None:
    def build(name: str, epochs: int) -> Any:
        config = load_config(tiny_recipe, [f"train.epochs={epochs}", f"train.name={name}", "train.resume=auto"])
        torch.manual_seed(3)
        return build_training(config, model=Wrapped(build_model(config.model, 2)))

    whole = build("whole", 4)
    whole.run()
    stopped = build("stopped", 4)
    stopped.engine.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda engine: engine.terminate())
    with pytest.raises(StoppedError, match=r"engine\.terminate\(\)"):
        stopped.run()
    resumed = build("stopped", 4)
    resumed.run()
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


@pytest.mark.parametrize(
    ("override", "part", "message"),
    [
        ("train.weights=x.pt", "model", r"train\.weights: needs the configured model"),
        ("eval.loss=true", "model", r"eval\.loss: needs the configured model"),
        ("data.repeat_factor=0.5", "train_loader", r"data\.repeat_factor: needs the configured train_loader"),
        ("data.class_weights=inverse", "train_loader", r"data\.class_weights: needs the configured train_loader"),
    ],
)
def test_keys_that_need_the_replaced_part_are_refused(
    tiny_recipe: Path, override: str, part: str, message: str
) -> None:
    config = load_config(tiny_recipe, [override])
    given: Any = nn.Identity() if part == "model" else ListLoader([])
    with pytest.raises(ConfigError, match=message):
        build_training(config, **{part: given})


def test_parts_that_cannot_be_used_are_refused(config: Config) -> None:
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module".replace(".", r"\.")):
        build_training(config, model=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss: expected something to call"):
        build_training(config, loss=3)
    with pytest.raises(TypeError, match="train_loader: has no length"):
        build_training(config, train_loader=iter([]))


def test_a_loss_may_be_any_callable(config: Config) -> None:
    ours = build_loss(config, 2)
    calls: list[int] = []

    def loss(output: Any, targets: torch.Tensor, **context: Any) -> Any:
        calls.append(context["epoch"])
        return ours(output, targets, **context)

    build_training(config, loss=loss).run()
    assert calls == [0, 0, 0, 1, 1, 1]


def test_the_result_of_a_run(tiny_recipe: Path) -> None:
    training = build_training(load_config(tiny_recipe, ["train.resume=auto"]))
    result = training.run()
    assert result.last == training.engine.state.history[-1]
    evaluated = [row for row in training.engine.state.history if "val/mAP@0.5" in row]
    assert result.best["val/mAP@0.50:0.95"] == max(row["val/mAP@0.50:0.95"] for row in evaluated)
    for path in (result.best_weights, result.final_weights, result.metrics_csv):
        assert path is not None
        assert path.exists()
    assert build_training(load_config(tiny_recipe, ["train.resume=auto"])).run() == result  # it is finished


def test_frozen_batch_norms_stay_so_through_an_evaluation(config: Config) -> None:
    training = build_training(config)
    training.handlers.remove("ema")  # the model in training is evaluated itself
    training.model.backbone.eval()  # type: ignore[union-attr, operator]
    before = {key: value.clone() for key, value in training.model.backbone.named_buffers()}  # type: ignore[union-attr]
    training.run()
    for key, value in training.model.backbone.named_buffers():  # type: ignore[union-attr]
        assert torch.equal(value, before[key]), key


SCRIPT = """
import logging, sys
{setup}
from yolov6_ignite import build_training, load_config
build_training(load_config({recipe!r}, ["train.epochs=1"])).run()
"""


@pytest.mark.parametrize(
    ("setup", "times"),
    [
        ("", 1),
        ("logging.getLogger('yolov6_ignite').setLevel(logging.WARNING)", 0),
        ("logging.basicConfig(level=logging.INFO)", 1),
    ],
)
def test_a_script_shows_progress_once_unless_it_is_turned_off(tiny_recipe: Path, setup: str, times: int) -> None:
    code = SCRIPT.format(setup=setup, recipe=str(tiny_recipe))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("epoch 1/1") == times
    assert done.stdout == ""


def test_building_does_not_change_a_level_that_the_user_has_set(config: Config) -> None:
    logger = logging.getLogger("yolov6_ignite")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        build_training(config)
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)
