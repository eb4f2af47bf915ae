"""Networks of RepOptimizer in both forms: the branches of the hyper-search, and the plain network that follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.models import build_model
from yolov6_ignite.models.linear_add import LinearAddBlock, RealVGGBlock, ScaleLayer
from yolov6_ignite.optim import BlockScales, reinitialise, rep_scales

Pair = tuple[nn.Module, nn.Module, Mapping[str, BlockScales]]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_stack() -> Callable[[type[nn.Module]], nn.Sequential]:
    """Five blocks, two of them with stride 2 and three with an identity, and a predictor with a bias."""

    def make(block: type[nn.Module]) -> nn.Sequential:
        shapes = [(3, 8, 2), (8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1)]
        return nn.Sequential(*(block(*shape) for shape in shapes), nn.Conv2d(16, 5, 1))

    return make


@pytest.fixture(scope="session")
def repopt_config() -> Callable[..., Config]:
    """The configuration of YOLOv6-N with very few channels, in either of the two stages."""

    def make(mode: str, *overrides: str) -> Config:
        stage = {"hyper_search": "hs", "repopt": "opt"}[mode]
        size = ["model.width_multiple=0.0625", "data.batch_size=64"]
        return load_config(f"repopt/yolov6n_{stage}", [*size, *overrides])

    return make


@pytest.fixture(scope="session")
def make_yolov6n(repopt_config: Callable[..., Config]) -> Callable[[type[nn.Module]], nn.Module]:
    """YOLOv6-N with very few channels and predictors that are not zero."""

    def make(block: type[nn.Module]) -> nn.Module:
        mode = {LinearAddBlock: "hyper_search", RealVGGBlock: "repopt"}[block]
        model = build_model(repopt_config(mode).model, 3)
        for name, module in model.detect.named_modules():
            if "_preds" in name and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        return model

    return make


@pytest.fixture(scope="session")
def equal_pair() -> Callable[[Callable[[type[nn.Module]], nn.Module]], Pair]:
    """Makes both forms of a network in float64, equal as functions: (branches, one kernel each, scales).

    In the first only the identities' scales learn, as RepOptimizer has it.
    """

    @torch.no_grad()
    def make(network: Callable[[type[nn.Module]], nn.Module]) -> Pair:
        searched, plain = network(LinearAddBlock).double(), network(RealVGGBlock).double()
        for name, module in searched.named_modules():
            if isinstance(module, ScaleLayer):
                nn.init.uniform_(module.weight, 0.3, 1.5)
                module.weight.requires_grad_(name.endswith("scale_identity"))
        state = searched.state_dict()
        own = plain.state_dict()
        plain.load_state_dict({key: state[key] for key in own})
        scales = rep_scales(plain, state, "search.pt")
        torch.manual_seed(1)
        reinitialise(plain, scales)
        torch.manual_seed(1)  # the same 1x1 kernels once more
        for module in searched.modules():
            if isinstance(module, LinearAddBlock):
                pointwise: Tensor = module.conv_1x1.weight
                pointwise.copy_(nn.Conv2d(*pointwise.shape[1::-1], 1, bias=False).weight)
        return searched, plain, scales

    return make
