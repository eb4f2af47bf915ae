"""Small networks of every kind, with weights that make every part of them matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config_file import apply_overrides, load_config
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.models.lite import SEBlock

FAMILY = {
    "n": ("yolov6n", False),
    "s_qa": ("qarepvgg/yolov6s_qa", False),
    "n_opt_with_bn": ("repopt/yolov6n_opt", True),
    "m": ("yolov6m", False),
    "n6": ("yolov6n6", False),
    "lite_s": ("yolov6_lite/yolov6_lite_s", False),
    "lite_s_with_bn": ("yolov6_lite/yolov6_lite_s", True),
    "s_mbla": ("mbla/yolov6s_mbla", False),
}
"""A recipe, and whether its batch norms are kept."""


@pytest.fixture(scope="session")
def build_small() -> Callable[[str], Detector]:
    """Builds a recipe with few channels and 3 classes, in eval mode."""

    def build(recipe: str) -> Detector:
        torch.manual_seed(0)
        config = load_config(recipe)
        changes: dict[str, object] = {"model.width_multiple": 0.125}
        if config.model.neck.unified_channels is not None:
            changes["model.neck.unified_channels"] = 16
        model = build_model(apply_overrides(config, changes).model, 3)
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
            elif isinstance(module, SEBlock) and module.conv1.bias is not None:
                nn.init.ones_(module.conv1.bias)  # so few channels are all cut off otherwise
            elif "_preds" in name and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.5)
        return model.eval()

    return build


@pytest.fixture(params=FAMILY)
def family_member(request: pytest.FixtureRequest, build_small: Callable[[str], Detector]) -> tuple[Detector, bool]:
    """A float network of every kind, and whether its batch norms are kept."""
    recipe, keep_batch_norm = FAMILY[request.param]
    return build_small(recipe), keep_batch_norm


@pytest.fixture
def images_of() -> Callable[[Detector], Tensor]:
    """Two random images of the smallest size that is not trivial."""

    def make(model: Detector, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(2, 3, model.size_multiple, 2 * model.size_multiple, generator=generator)

    return make
