"""Which recipe weights belong to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config, recipe_names
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.weights.recognise import Recognised, recognise
from yolov6_ignite.weights.structure_head import PUBLISHED_ANCHORS

ACTIVATION = {"conv_silu": "SiLU", "conv_relu": "ReLU"}
SAME_NETWORK = ("_finetune", "_ptq", "_qat")
RECIPES = [name for name in recipe_names() if name not in {"custom", "quickstart"} and not name.endswith(SAME_NETWORK)]


def recognised(model: ModelConfig, classes: dict[str, str] | None = None, **head: bool) -> Recognised:
    with torch.device("meta"):
        state = build_model(model, 4, **head).state_dict()
    return recognise(state, classes=classes or {})


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_of_every_recipe_is_found_again(name: str) -> None:
    model = load_config(name).model
    activation = ACTIVATION.get(model.training_mode)
    found = recognised(model, {"backbone.stem.block.act": activation} if activation else {})
    assert found == Recognised(model, 4, False, False, name)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith(SAME_NETWORK)])
def test_recipes_that_only_train_differently_are_not_preferred(name: str) -> None:
    model = load_config(name).model
    activation = ACTIVATION.get(model.training_mode)
    found = recognised(model, {"backbone.stem.block.act": activation} if activation else {})
    assert found.recipe is not None
    assert found.recipe == name.removesuffix("_finetune").removesuffix("_ptq").removesuffix("_qat")


def test_bins_and_anchors_come_from_the_weights() -> None:
    recipe = load_config("yolov6n").model
    found = recognised(recipe, distill_ns=True)
    assert (found.recipe, found.distill_ns) == ("yolov6n", True)
    assert found.model.head == recipe.head

    dfl = recipe.model_copy(update={"head": recipe.head.model_copy(update={"use_dfl": True, "reg_max": 16})})
    assert recognised(dfl).model == dfl
    assert recognised(dfl, distill_ns=True).model == dfl
    anchors = recipe.head.model_copy(update={"anchors_init": PUBLISHED_ANCHORS})
    found = recognised(recipe.model_copy(update={"head": anchors}), fuse_ab=True)
    assert (found.recipe, found.fuse_ab) == ("yolov6n", True)
    assert found.model.head.anchors_init == PUBLISHED_ANCHORS


@pytest.mark.parametrize(
    ("classes", "mode"),
    [
        ({"backbone.stem.block.act": "ReLU"}, "conv_relu"),
        ({"backbone.stem.block.act": "SiLU"}, "conv_silu"),
        ({"backbone.stem": "ConvBNReLU", "backbone.stem.block.act": "SiLU"}, "conv_silu"),  # the activation decides
        ({"backbone.stem": "ConvBNReLU", "backbone.stem.block": "ConvModule"}, "conv_relu"),
        ({"backbone.stem": "ConvBNSiLU"}, "conv_silu"),
        ({"backbone.stem": "SimConvWrapper"}, "conv_relu"),
        ({"backbone.stem": "ConvWrapper"}, "conv_silu"),
        ({"neck.reduce_layer0.block.act": "ReLU"}, "conv_silu"),  # of every network: tells nothing
        ({}, "conv_silu"),
    ],
)
def test_class_names_decide_the_activation(classes: dict[str, str], mode: str) -> None:
    own = load_config("yolov6n").model.model_copy(update={"training_mode": "conv_relu", "width_multiple": 0.125})
    found = recognised(own, classes)
    assert found.recipe is None
    assert found.model.training_mode == mode


@pytest.mark.parametrize(
    ("classes", "mode"),
    [
        ({"backbone.stem": "QARepVGGBlock"}, "qarepvgg"),
        ({"backbone.stem": "QARepVGGBlockV2"}, "qarepvggv2"),
        ({}, "qarepvggv2"),
    ],
)
def test_class_names_decide_the_version_of_a_block(classes: dict[str, str], mode: str) -> None:
    recipe = load_config("yolov6n").model.model_copy(update={"training_mode": mode, "width_multiple": 0.125})
    assert recognised(recipe, classes).model.training_mode == mode


def test_a_network_of_two_recipes_is_told_apart_by_its_activation() -> None:
    base = load_config("base/yolov6l_base").model
    assert recognised(base).recipe == "yolov6l"  # the same names and shapes: nothing can tell
    assert recognised(base, {"backbone.stem.block.act": "ReLU"}).recipe == "base/yolov6l_base"


@pytest.mark.parametrize(
    "classes", [{"backbone.stem.block.act": "Hardswish"}, {"backbone.stem": "QARepVGGBlock"}, {"backbone.stem": "Mine"}]
)
def test_unknown_classes_are_refused(classes: dict[str, str]) -> None:
    model = load_config("yolov6n").model.model_copy(update={"training_mode": "conv_silu"})
    with pytest.raises(ConfigError, match=r"backbone\.stem"):
        recognised(model, classes)


def test_classes_of_what_names_already_tell_are_not_needed(published_nano: dict[str, Tensor]) -> None:
    assert recognise(published_nano, classes={"backbone.stem": "RepVGGBlock"}).recipe == "yolov6n"


def test_the_published_nano_network_is_the_recipe(published_nano: dict[str, Tensor]) -> None:
    assert recognise(published_nano) == Recognised(load_config("yolov6n").model, 80, False, False, "yolov6n")


@pytest.fixture
def published_nano() -> dict[str, Tensor]:
    file = Path(__file__).parents[1] / "data" / "models" / "yolov6n__plain.state_dict.json"
    state = json.loads(file.read_text())["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape in state.items()}


def test_recipe_names_are_recipes() -> None:
    names = recipe_names()
    assert names == sorted(names)
    assert {"yolov6n", "custom", "quickstart"} <= set(names)
    assert not any(name.startswith("data/") for name in names)


def test_every_published_file_is_its_recipe(shared: Path) -> None:
    facts = json.loads((shared / "spec" / "configs.json").read_text())
    for file in sorted((shared / "spec" / "state_dicts").glob("*.json")):
        published = json.loads(file.read_text())
        activation = ACTIVATION.get(facts[published["config"]].get("training_mode", "repvgg"))
        state = {key: torch.empty(shape, device="meta") for key, shape in published["state_dict"].items()}
        found = recognise(state, classes={"backbone.stem.block.act": activation} if activation else {})
        assert found.recipe == published["config"], file.stem
