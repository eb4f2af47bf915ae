"""Parameters and operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.models import Detector, build_model, count_parameters, gflops
from yolov6_ignite.models.conv import ConvModule, Transpose


def test_costs_of_the_nano_model(yolov6n_config: ModelConfig) -> None:
    with torch.device("meta"):
        model = build_model(yolov6n_config, 80)
    assert count_parameters(model) == 5_058_270
    assert count_parameters(model.deploy()) == 4_646_974
    assert gflops(model, 640) == pytest.approx(12.3744, abs=1e-4)
    assert gflops(model.deploy(), (640, 640)) == pytest.approx(11.3160, abs=1e-4)
    assert gflops(model.deploy(), (320, 640)) == pytest.approx(11.3160 / 2, abs=1e-4)


def test_two_operations_for_each_multiply_add() -> None:
    assert gflops(ConvModule(3, 8, 3, stride=2), (10, 20)) * 1e9 == 2 * 5 * 10 * 8 * 3 * 9
    assert gflops(Transpose(3, 4), 10) * 1e9 == 2 * 10 * 10 * 3 * 4 * 4


def test_branches_for_training_cost_nothing_outside_it(build_recipe: Callable[..., Detector]) -> None:
    plain, anchor_aided = (build_recipe("yolov6n", head, num_classes=3, small=True) for head in ("plain", "fuse_ab"))
    assert gflops(anchor_aided, 64) == gflops(plain, 64)
    assert count_parameters(anchor_aided) > count_parameters(plain)
    assert count_parameters(anchor_aided.deploy()) == count_parameters(plain.deploy())


def test_model_is_left_alone(yolov6n_config: ModelConfig) -> None:
    model = build_model(yolov6n_config, 2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    gflops(model, 64)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
