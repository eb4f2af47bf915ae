"""Configurations, weights and inputs that the model tests share."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config, ModelConfig
from yolov6_ignite.config_file import apply_overrides
from yolov6_ignite.config_file import load_config as read_config
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.models.linear_add import ScaleLayer

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "models"

load_config = functools.cache(read_config)  # configurations are frozen

FAMILIES = {
    "repvgg": ("yolov6n", "plain"),
    "fuse_ab": ("yolov6n", "fuse_ab"),
    "distill_ns": ("yolov6n", "distill_ns"),
    "qarepvgg": ("qarepvgg/yolov6n_qa", "plain"),
    "hyper_search": ("repopt/yolov6n_hs", "plain"),
    "repopt": ("repopt/yolov6n_opt", "plain"),
    "csp": ("yolov6m", "plain"),
    "mbla": ("mbla/yolov6s_mbla", "fuse_ab"),
    "p6": ("yolov6l6", "plain"),
    "lite": ("yolov6_lite/yolov6_lite_s", "plain"),
}
"""A recipe and a head for every kind of network."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_config() -> Callable[..., ModelConfig]:
    """Makes the model section of a recipe with the given keys changed; `head`, `neck`, `backbone` are merged."""

    def make(recipe: str = "yolov6n", **changes: Any) -> ModelConfig:
        section: dict[str, Any] = load_config(recipe).model.model_dump()
        for key, value in changes.items():
            section[key] = {**section[key], **value} if isinstance(value, dict) else value
        return ModelConfig(**section)

    return make


@pytest.fixture(scope="session")
def yolov6n_config(model_config: Callable[..., ModelConfig]) -> ModelConfig:
    return model_config()


@pytest.fixture(scope="session")
def recipe_config() -> Callable[..., Config]:
    """The configuration of a recipe, made what a head needs; `small` cuts the channels to an eighth or less."""

    def make(recipe: str, head: str = "plain", *, small: bool = False) -> Config:
        config = load_config(recipe)
        changes: dict[str, Any] = {}
        if head == "distill_ns":
            changes |= {"model.head.use_dfl": True, "model.head.reg_max": 16}
        if small:
            changes["model.width_multiple"] = 0.125
            if config.model.neck.unified_channels is not None:
                changes["model.neck.unified_channels"] = 16
        return apply_overrides(config, changes)

    return make


@pytest.fixture(scope="session")
def build_recipe(recipe_config: Callable[..., Config]) -> Callable[..., Detector]:
    """Builds the network of a recipe with one of the heads `plain`, `fuse_ab` and `distill_ns`."""

    def build(recipe: str, head: str = "plain", *, num_classes: int = 80, small: bool = False) -> Detector:
        config = recipe_config(recipe, head, small=small).model
        return build_model(config, num_classes, fuse_ab=head == "fuse_ab", distill_ns=head == "distill_ns")

    return build


@pytest.fixture(params=FAMILIES)
def small_network(request: pytest.FixtureRequest, build_recipe: Callable[..., Detector]) -> Detector:
    """A network of every kind with few channels and 3 classes, in train mode."""
    return build_recipe(*FAMILIES[request.param], num_classes=3, small=True)


@pytest.fixture
def small_model(build_recipe: Callable[..., Detector]) -> Detector:
    """YOLOv6-N with few channels and 3 classes, in train mode."""
    return build_recipe("yolov6n", num_classes=3, small=True)


@pytest.fixture(scope="session")
def read_fixture() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden_images() -> Tensor:
    generator = np.random.Generator(np.random.PCG64(20260101))
    return torch.from_numpy(generator.random((2, 3, 128, 192), dtype=np.float32))


@pytest.fixture(scope="session")
def fill_weights() -> Callable[[nn.Module], None]:
    """Fills a model by the rule that the reference numbers were made with: names alone decide the values."""

    def fill(model: nn.Module) -> None:
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.zero_()
                continue
            leaf = key.rsplit(".", 1)[-1]
            if leaf == "proj" or "proj_conv" in key:
                continue
            generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
            noise = generator.standard_normal(tuple(tensor.shape))
            if leaf == "running_var" or (leaf == "weight" and tensor.dim() <= 1):
                values = 1 + 0.25 * np.tanh(noise)
            elif leaf in {"running_mean", "bias"}:
                values = 0.1 * noise
            elif tensor.dim() >= 2:
                values = noise / np.sqrt(max(1, tensor[0].numel()))
            else:
                values = 1 + 0.1 * np.tanh(noise)
            tensor.copy_(torch.from_numpy(np.asarray(values)))

    return fill


@pytest.fixture(scope="session")
def randomise_scales() -> Callable[[nn.Module], None]:
    """Gives every batch norm statistics and an affine map that are far from the identity, and learned scales too."""

    def randomise(module: nn.Module) -> None:
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                nn.init.normal_(child.running_mean, std=0.3)
                nn.init.uniform_(child.running_var, 0.5, 2.0)
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, std=0.3)
            elif isinstance(child, ScaleLayer):
                nn.init.uniform_(child.weight, 0.5, 1.5)

    return randomise


@pytest.fixture(scope="session")
def randomise_predictors() -> Callable[[Detector], None]:
    """Gives the predictors weights: fresh ones are zero, so predictions are constant and pass no gradient on."""

    def randomise(model: Detector) -> None:
        for name, module in model.detect.named_modules():
            if "_preds" in name and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.5)
                if "cls" in name:
                    nn.init.normal_(module.bias)

    return randomise
