"""Which objective a configuration gets."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.config_file import load_config
from yolov6_ignite.losses import AnchorAidedLoss, DetectionLoss, DistillationLoss, SumOfLosses, build_loss

DISTIL = [
    "distill.teacher=teacher.pt",
    "model.head.use_dfl=true",
    "model.head.reg_max=16",
    "train.fuse_ab=false",
    "model.head.atss_warmup_epoch=4",
]


def test_plain() -> None:
    assert type(build_loss(load_config("yolov6n", ["train.fuse_ab=false"]), 3)) is DetectionLoss


def test_anchor_aided() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    loss = build_loss(load_config("yolov6n", ["train.fuse_ab=true"]), 3, class_weights=weights, reduce_over_ranks=False)
    assert isinstance(loss, SumOfLosses)
    assert [type(part) for part in loss.losses] == [DetectionLoss, AnchorAidedLoss]
    for part in loss.losses:
        assert part.iou_type == "siou"
        assert part.num_classes == 3
        assert torch.equal(part.class_weights, weights)
        assert part.reference_sums.world_size == 8
        assert not part.reference_sums.reduce_over_ranks


@pytest.mark.parametrize(("model_type", "warmup"), [("YOLOv6n", 0), ("mine", 4)])
def test_distillation(model_type: str, warmup: int) -> None:
    overrides = ["distill.temperature=7", "distill.features=true", "distill.weights.class=0.5", "distill.weights.dfl=2"]
    loss = build_loss(load_config("yolov6n", [*DISTIL, *overrides, f"model.type={model_type}"]), 3)
    assert isinstance(loss, DistillationLoss)
    assert (loss.temperature, loss.features, loss.class_weight, loss.dfl_weight) == (7, True, 0.5, 2)
    assert loss.detection.reg_max == 16
    assert loss.detection.atss_warmup_epochs == warmup


def test_distillation_weighs_by_one_unless_told() -> None:
    config = load_config("yolov6n", DISTIL)
    loss = build_loss(config, 3)
    expected = (config.distill.weights["class"], config.distill.weights["dfl"])
    assert (loss.class_weight, loss.dfl_weight) == expected
