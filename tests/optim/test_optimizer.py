"""Which optimizer a configuration gets, and its three groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.models.linear_add import RealVGGBlock
from yolov6_ignite.optim import RepSGD, build_optimizer, freeze, parameter_groups


def small(*overrides: str) -> tuple[Config, nn.Module]:
    config = load_config("yolov6n", ["model.width_multiple=0.0625", "data.batch_size=128", *overrides])
    return config, build_model(config.model, 3)


@pytest.mark.parametrize(
    ("name", "expected", "settings"),
    [
        ("SGD", torch.optim.SGD, {"momentum": 0.937, "nesterov": True}),
        ("Adam", torch.optim.Adam, {"betas": (0.937, 0.999)}),
        ("AdamW", torch.optim.AdamW, {"betas": (0.937, 0.999)}),
    ],
)
def test_groups_of_every_optimizer(name: str, expected: type, settings: dict[str, Any]) -> None:
    config, model = small(f"solver.optim={name}")
    optimizer = build_optimizer(config, model)
    assert type(optimizer) is expected
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.001, 0.0]  # for 128 images
    for group, parameters in zip(optimizer.param_groups, parameter_groups(model), strict=True):
        assert all(a is b for a, b in zip(group["params"], parameters, strict=True))
        assert {key: group[key] for key in settings} == settings
        assert group["lr"] == 0.02
    norms = {module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert set(optimizer.param_groups[0]["params"]) == norms


def test_adamw_decays_apart_from_the_gradient() -> None:
    config, model = small("solver.optim=AdamW")
    optimizer = build_optimizer(config, model)
    weight, norm = (group["params"][0] for group in optimizer.param_groups[:2][::-1])
    before = weight.detach().clone()
    for parameter in (weight, norm):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.02 * 0.001))
    assert torch.equal(norm, torch.ones_like(norm))


def test_repopt_masks_the_kernels_that_train(
    equal_pair: Callable[..., Any],
    make_yolov6n: Callable[..., nn.Module],
    repopt_config: Callable[..., Config],
) -> None:
    _, plain, scales = equal_pair(make_yolov6n)
    freeze(plain, ["backbone.ERBlock_2"])
    optimizer = build_optimizer(repopt_config("repopt"), plain, scales)
    assert isinstance(optimizer, RepSGD)
    kernels = {m.conv.weight for m in plain.modules() if isinstance(m, RealVGGBlock) and m.conv.weight.requires_grad}
    assert set(optimizer.gradient_masks) == kernels
    assert len(kernels) == 35 - 3
    assert optimizer.defaults["nesterov"]


def test_repopt_without_scales_waits_for_a_state(
    equal_pair: Callable[..., Any], make_yolov6n: Callable[..., nn.Module], repopt_config: Callable[..., Config]
) -> None:
    _, plain, scales = equal_pair(make_yolov6n)
    optimizer = build_optimizer(repopt_config("repopt"), plain)
    assert isinstance(optimizer, RepSGD)
    assert not optimizer.gradient_masks
    optimizer.load_state_dict(build_optimizer(repopt_config("repopt"), plain, scales).state_dict())
    assert len(optimizer.gradient_masks) == 35


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_repopt_needs_sgd(name: str, repopt_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=f"solver.optim: {name} cannot train model.training_mode: repopt; use SGD"):
        repopt_config("repopt", f"solver.optim={name}")
