"""Every recipe: one step of training, then the deployed form. Channels are cut, nothing else is."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config, recipe_names
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import Detector, count_parameters

KEY_SETS = Path(__file__).resolve().parents[1] / "data" / "models" / "key_sets.json"

Randomise = Callable[[nn.Module], None]


def networks() -> list[tuple[str, str]]:
    """Recipes and heads: those of the published key sets, and recipes whose model section is another one still."""
    pairs = [tuple(name.replace("__", "/").rsplit("/", 1)) for name in json.loads(KEY_SETS.read_text())]
    seen = {section_of(recipe) for recipe, _ in pairs}
    for recipe in recipe_names():
        if section_of(recipe) not in seen:
            pairs.append((recipe, "plain"))
            seen.add(section_of(recipe))
    return pairs


@functools.cache
def section_of(recipe: str) -> str:
    return load_config(recipe).model.model_dump_json(exclude={"type"})


@pytest.mark.parametrize(("recipe", "head"), networks())
def test_trains_a_step_and_deploys(
    recipe: str,
    head: str,
    recipe_config: Callable[..., Config],
    build_recipe: Callable[..., Detector],
    randomise_scales: Randomise,
    randomise_predictors: Randomise,
) -> None:
    config = recipe_config(recipe, head, small=True)
    model = build_recipe(recipe, head, num_classes=2, small=True)
    randomise_predictors(model)  # fresh ones pass no gradient on
    check_training_step(config, model)
    randomise_scales(model)
    check_deployed_form(model)


def check_training_step(config: Config, model: Detector) -> None:
    loss = build_loss(config, 2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.6], [0, 1, 0.3, 0.3, 0.3, 0.2], [1, 1, 0.6, 0.4, 0.7, 0.5]])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    output = model(torch.rand(2, 3, 128, 128))
    total, terms = loss(output, targets, epoch=0, max_epochs=10, image_size=(128, 128))
    assert all(term.isfinite() for term in terms.values())
    assert terms["cls"] > 0
    assert terms["iou"] > 0
    total.backward()

    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.endswith((".proj", "proj_conv.weight", ".alpha")), name
        if parameter.requires_grad and not of_another_loss(name, model):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert torch.equal(parameter, before[name]), name
    stem = next(
        name for name, parameter in model.named_parameters() if parameter.dim() == 4 and parameter.requires_grad
    )
    assert not torch.equal(model.get_parameter(stem), before[stem])  # the gradient came through the whole network


def of_another_loss(name: str, model: Detector) -> bool:
    """Whether a parameter is of a branch that the loss of the plain head does not reach."""
    if "_preds_ab." in name:
        return True
    return "detect.reg_preds." in name and model.detect.reg_preds_dist is not None


def check_deployed_form(model: Detector) -> None:
    model.double()  # equality to rounding, not to what float32 leaves of it in a deep network
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fused = model.deploy()
    assert model.training
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    branches = ("rbr_dense", "rbr_1x1", "rbr_identity", "conv_1x1", "scale_", "_preds_ab", "_preds_dist")
    assert not [name for name, module in fused.named_modules() if any(branch in name for branch in branches) and module]
    assert count_parameters(fused) <= count_parameters(model)

    images = torch.rand(2, 3, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = model.eval()(images), fused(images)
    assert expected[..., 5:].std() > 1e-3  # the comparison is not one of constants
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().mean()
    torch.testing.assert_close(actual[..., 5:], expected[..., 5:], rtol=0, atol=1e-9)
