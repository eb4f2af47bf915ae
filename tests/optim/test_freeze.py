"""Freezing: which parameters and statistics stay, and what else does not change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from yolov6_ignite.handlers import ModelEMA

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, DetectorOutput, build_model
from yolov6_ignite.optim import build_optimizer, freeze, parameter_groups


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("yolov6n", ["model.width_multiple=0.0625", "data.batch_size=4"])


@pytest.fixture
def model(config: Config) -> Detector:
    return build_model(config.model, 3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    output = model(torch.rand(2, 3, 64, 64))
    assert isinstance(output, DetectorOutput)
    ((output.logits - 1).square().mean() + (output.distances - 2).square().mean()).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("names", [["backbone"], ["neck.Rep_p4", "detect.stems.0"], ["detect.stems"]])
def test_frozen_parts_stay_and_others_train(config: Config, model: Detector, names: list[str]) -> None:
    frozen = freeze(model, names)

    def inside(key: str) -> bool:
        return any(key.startswith(f"{name}.") for name in names)

    assert frozen == [key for key, _ in model.named_parameters() if inside(key)]
    before = copy.deepcopy(model.state_dict())
    model.train()  # as evaluating it does when there is no average
    assert model.training
    assert model.detect.training
    optimizer = build_optimizer(config, model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )
    for _ in range(3):
        step(model, optimizer)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if inside(key))
    moved = {key for key, value in before.items() if not torch.equal(after[key], value)}
    statistics = {key for key in before if "running_" in key and not inside(key)}
    assert statistics <= moved
    assert any(key.endswith("conv.weight") for key in moved)


def test_frozen_batch_norms_use_their_statistics(model: Detector) -> None:
    freeze(model, ["backbone"])
    images = torch.rand(2, 3, 64, 64)
    trained = [feature.clone() for feature in model.backbone(images)]
    for feature, expected in zip(model.eval().backbone(images), trained, strict=True):
        torch.testing.assert_close(feature, expected)


def test_state_dict_and_average_are_unchanged(config: Config, model: Detector) -> None:
    keys = list(model.state_dict())
    freeze(model, ["backbone", "neck"])
    assert list(model.state_dict()) == keys
    start = copy.deepcopy(model.state_dict())
    average = ModelEMA(model)
    optimizer = build_optimizer(config, model)
    for _ in range(3):
        step(model, optimizer)
        average(None)  # type: ignore[arg-type]
    averaged = average.model.state_dict()
    assert all(torch.equal(averaged[key], start[key]) for key in keys if not key.startswith("detect"))
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(average.model.deploy()(images), average.model(images), rtol=1e-4, atol=1e-4)


def test_nothing_to_freeze(model: Detector) -> None:
    groups = [len(group) for group in parameter_groups(model)]
    assert freeze(model, []) == []
    assert [len(group) for group in parameter_groups(model)] == groups


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["backbon"], r"train.freeze: the network has no module 'backbon'; did you mean backbone"),
        (["neck.Rep_p"], r"no module 'neck.Rep_p'; did you mean neck.Rep_p"),
        (["neck.Rep_p4.conv1.rbr_dense.conv.weight"], r"did you mean neck.Rep_p4"),
        (["backbone", "zzz"], r"no module 'zzz'; its parts are backbone, neck, detect"),
        ([""], r"no module ''"),
        (["backbone.stem.nonlinearity"], r"no module"),
        (["detect.cls_convs.0.block.act"], r"has no parameters"),
        (["backbone", "neck", "detect"], r"backbone, neck, detect: nothing is left to train"),
    ],
)
def test_refuses_and_leaves_the_model_as_it_is(model: Detector, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(model, names)
    assert all(p.requires_grad for name, p in model.named_parameters() if "proj" not in name)
    assert all(module.training for module in model.modules())
