"""The loss on validation images: its value, ranks, the networks that it is of, and whole runs with it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from torch import nn

from yolov6_ignite import build_training, load_config
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import apply_overrides
from yolov6_ignite.data import Batch, build_eval_loader, build_index, load_dataset_file
from yolov6_ignite.engine import to_model_input
from yolov6_ignite.evaluation import CocoEvaluation
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import Detector, DetectorOutput, build_model
from yolov6_ignite.validation_loss import ValidationLoss

CPU = torch.device("cpu")


def network(config: Config, **heads: bool) -> Detector:
    """With predictors that are not constant."""
    torch.manual_seed(0)
    model = build_model(config.model, 2, **heads)
    for name, module in model.detect.named_modules():
        if "_preds" in name and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.5)
    return model.eval()


def evaluation(config: Config) -> CocoEvaluation:
    assert config.data.dataset is not None
    dataset = load_dataset_file(config.data.dataset)
    return CocoEvaluation(build_index(dataset.val, dataset.names), dataset, config, device=CPU)


@pytest.fixture
def config(tiny_recipe: Path) -> Config:
    """5 validation images in batches of 2."""
    return load_config(tiny_recipe, ["eval.loss=true", "model.head.atss_warmup_epoch=4", "model.head.iou_type=giou"])


def batches(config: Config) -> list[tuple[DetectorOutput, Batch]]:
    model = network(config)
    assert config.data.dataset is not None
    dataset = load_dataset_file(config.data.dataset)
    loader = build_eval_loader(build_index(dataset.val, dataset.names), image_size=64, batch_size=2)
    with torch.inference_mode():
        return [(model.detect_with_output(to_model_input(batch.images, CPU))[1], batch) for batch in loader]


@pytest.mark.parametrize("dfl", [False, True])
def test_it_is_the_training_objective_of_the_same_pass(config: Config, dfl: bool) -> None:
    config = apply_overrides(config, {"model.head.use_dfl": dfl, "model.head.reg_max": 16 if dfl else 0})
    model, evaluate = network(config), evaluation(config)
    evaluate(model)
    loss = build_loss(config, 2)
    sums, images = dict.fromkeys(("iou", "dfl", "cls"), 0.0), 0
    for batch in evaluate.loader:
        assert len(batch.targets) > 0
        with torch.no_grad():
            model.detect.training = True  # raw output, with the statistics of eval mode
            output = model(to_model_input(batch.images, CPU))
            model.detect.training = False
            height, width = batch.images.shape[-2:]
            # Past the warm-up of the assignment.
            items = loss(output, batch.targets, epoch=4, max_epochs=5, image_size=(height, width))[1]
        sums = {name: total + float(items[name]) * len(batch.images) for name, total in sums.items()}
        images += len(batch.images)
    assert images == 5
    assert evaluate.losses == pytest.approx({name: total / 5 for name, total in sums.items()}, rel=1e-5)
    assert evaluate.losses["iou"] > 0
    assert evaluate.losses["cls"] > 0
    assert (evaluate.losses["dfl"] > 0) == dfl
    scalars = evaluate.scalars()
    assert {name for name in scalars if name.endswith("_loss")} == {"val/iou_loss", "val/dfl_loss", "val/cls_loss"}
    assert scalars["val/cls_loss"] == evaluate.losses["cls"]
    again = dict(evaluate.losses)
    evaluate(model)
    assert evaluate.losses == again


def test_detections_are_the_same_with_and_without(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(config)
    with_loss = evaluation(config)
    with_loss(model)
    monkeypatch.setattr(Detector, "detect_with_output", lambda *arguments: pytest.fail("computed though it is off"))
    without = evaluation(apply_overrides(config, {"eval.loss": False}))
    without(model)
    assert without.losses == {}
    assert without.scalars().items() <= with_loss.scalars().items()
    assert len(with_loss.scalars()) == len(without.scalars()) + 3


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_ranks_gives_the_same_bits(
    config: Config, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = batches(config)
    assert [len(batch.images) for _, batch in seen] == [2, 2, 1]
    alone = ValidationLoss(config, 2)
    for output, batch in seen:
        alone.update(output, batch)
    expected = alone.compute()

    ranks = [ValidationLoss(config, 2) for _ in range(world_size)]
    for rank, loss in enumerate(ranks):
        for output, batch in seen[rank::world_size] or seen[-1:]:  # a rank without a batch repeats the last
            loss.update(output, batch)
    shares: list[Any] = []
    monkeypatch.setattr(idist, "get_world_size", lambda: world_size)
    monkeypatch.setattr(idist, "all_gather", lambda own: shares.append(own) or [own])
    for loss in ranks:
        loss.compute()
    assert len(shares) == world_size
    monkeypatch.setattr(idist, "all_gather", lambda own: shares)
    assert [loss.compute() for loss in ranks] == [expected] * world_size


def test_no_rank_waits_for_another_in_a_batch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = batches(config)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "all_reduce", lambda *arguments, **options: pytest.fail("ranks have different numbers"))
    loss = ValidationLoss(config, 2)
    for output, batch in seen:
        loss.update(output, batch)


def losses_of(config: Config, model: Detector) -> dict[str, float]:
    evaluate = evaluation(config)
    evaluate(model)
    return evaluate.losses


DFL = {"model.head.use_dfl": True, "model.head.reg_max": 16}


def test_other_branches_and_teachers_do_not_count(config: Config) -> None:
    plain = losses_of(config, network(config))
    aided = network(config, fuse_ab=True)
    aided.load_state_dict(network(config).state_dict(), strict=False)
    assert losses_of(apply_overrides(config, {"train.fuse_ab": True}), aided) == plain

    taught = apply_overrides(config, {**DFL, "distill.teacher": "none.pt", "model.type": "YOLOv6m"})
    model = network(taught)
    assert losses_of(taught, model) == losses_of(apply_overrides(config, DFL), model)


def test_networks_with_direct_distances_beside_are_compared_by_those(config: Config) -> None:
    """After distilling N and S only the direct distances detect."""
    taught = apply_overrides(config, {**DFL, "distill.teacher": "none.pt", "model.type": "YOLOv6n"})
    assert taught.distill_ns
    student = network(taught, distill_ns=True)
    deployed = network(config)
    own = student.state_dict()
    deployed.load_state_dict({name: own[name] for name in deployed.state_dict()})
    assert losses_of(taught, student) == losses_of(config, deployed)
    assert losses_of(taught, student)["dfl"] == 0
    assert losses_of(taught, network(taught))["dfl"] > 0  # its teacher


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        lines = list(csv.reader(file))
    assert {len(line) for line in lines} == {len(lines[0])}
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


VALIDATION = ("val/iou_loss", "val/dfl_loss", "val/cls_loss")


def run(recipe: Path, overrides: Sequence[str]) -> Path:
    training = build_training(load_config(recipe, ["train.resume=auto", *overrides]))
    training.run()
    return training.run_dir


@pytest.mark.parametrize("mode", [[], ["train.fuse_ab=true"]], ids=["plain", "fuse_ab"])
def test_a_run_writes_it_down(tiny_recipe: Path, mode: list[str]) -> None:
    folder = run(tiny_recipe, ["eval.loss=true", *mode])
    table = rows(folder)
    assert [[row[name] != "" for name in VALIDATION] for row in table] == [[False] * 3, [True] * 3] * 2
    assert float(table[3]["val/cls_loss"]) > 0
    assert read_checkpoint(folder / "weights" / "last_ckpt.pt")["metrics"].keys() >= set(VALIDATION)


def test_it_can_be_turned_on_when_a_run_goes_on(tiny_recipe: Path) -> None:
    shorter = ["train.epochs=2", "augment.mosaic=0", "augment.stop_last_n_epochs=0"]
    run(tiny_recipe, shorter)
    table = rows(run(tiny_recipe, [*shorter, "train.epochs=4", "eval.loss=true"]))
    assert [row["val/cls_loss"] != "" for row in table] == [False, False, False, True]
    assert [row["val/mAP@0.5"] != "" for row in table] == [False, True, False, True]
