"""RepOptimizer's promise: one kernel moves as its three branches would (specification, models 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.models import DetectorOutput
from yolov6_ignite.models.linear_add import ScaleLayer
from yolov6_ignite.optim import build_optimizer

STEPS = 20


def flat(output: Any) -> Tensor:
    if isinstance(output, DetectorOutput):
        return torch.cat((output.logits.flatten(), output.distances.flatten()))
    assert isinstance(output, Tensor)
    return output.flatten()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, size: int = 32) -> Tensor:
    """Outputs (steps, numbers) of a training with rising rate and momentum, as in warm-up; model in train mode."""
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = 0.02 * (step + 1) / STEPS, 0.8 + 0.1 * step / STEPS
        images = torch.rand(4, 3, size, size, generator=generator, dtype=torch.float64)
        output = flat(model(images))
        target = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        (output - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        outputs.append(output.detach())
    return torch.stack(outputs)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("network", ["make_stack", "make_yolov6n"])
def test_one_kernel_follows_three_branches(
    network: str,
    decay: float,
    request: pytest.FixtureRequest,
    equal_pair: Callable[..., Any],
    repopt_config: Callable[..., Config],
) -> None:
    """With weight decay, too: the decay of the sum is the sum of the decays of W3, W1 and the identity's scale."""
    searched, plain, scales = equal_pair(request.getfixturevalue(network))
    size = 128 if network == "make_yolov6n" else 32  # at 64 px the last level is 2 x 2: errors grow fast
    solver = f"solver.weight_decay={decay}"
    branches = train(searched, build_optimizer(repopt_config("hyper_search", solver), searched), size)
    kernels = train(plain, build_optimizer(repopt_config("repopt", solver), plain, scales), size)
    assert (branches[-1] - branches[0]).abs().max() > 0.1
    torch.testing.assert_close(kernels, branches, rtol=0, atol=1e-9)


def test_without_masks_the_kernels_go_elsewhere(
    make_stack: Callable[..., nn.Module], equal_pair: Callable[..., Any], repopt_config: Callable[..., Config]
) -> None:
    searched, plain, _ = equal_pair(make_stack)
    branches = train(searched, build_optimizer(repopt_config("hyper_search"), searched))
    kernels = train(plain, build_optimizer(repopt_config("repopt"), plain))
    torch.testing.assert_close(kernels[0], branches[0], rtol=0, atol=1e-9)
    assert (kernels[-1] - branches[-1]).abs().max() > 1e-3


def test_identities_that_do_not_decay_are_another_training(
    make_stack: Callable[..., nn.Module], equal_pair: Callable[..., Any], repopt_config: Callable[..., Config]
) -> None:
    """The kernel cannot tell the identity from the rest of its centre, so all of it decays."""
    searched, plain, scales = equal_pair(make_stack)
    solver = "solver.weight_decay=0.1"
    optimizer = build_optimizer(repopt_config("hyper_search", solver), searched)
    identities = {m.weight for m in searched.modules() if isinstance(m, ScaleLayer) and m.weight.requires_grad}
    decaying = optimizer.param_groups[1]
    decaying["params"] = [p for p in decaying["params"] if p not in identities]
    optimizer.add_param_group({**optimizer.param_groups[0], "params": list(identities)})
    branches = train(searched, optimizer)
    kernels = train(plain, build_optimizer(repopt_config("repopt", solver), plain, scales))
    torch.testing.assert_close(kernels[0], branches[0], rtol=0, atol=1e-9)
    assert (kernels[-1] - branches[-1]).abs().max() > 1e-4
