"""The optimizer that masks gradients: torch's SGD in everything else."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.checkpoint import read_checkpoint, write_checkpoint
from yolov6_ignite.optim import RepSGD

SETTINGS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}
Step = Callable[[torch.optim.Optimizer, nn.Module], None]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3))


def masks_of(model: nn.Sequential) -> dict[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    kernels = [model[0].weight, model[3].weight]
    return {kernel: torch.rand(kernel.shape, generator=generator) + 0.5 for kernel in kernels}


def images(step: int) -> Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        optimizer.zero_grad()
        model(images(step)).square().mean().backward()
        optimizer.step()
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_bit_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_two_steps_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = RepSGD([parameter], {parameter: torch.tensor([4.0, 0.5])}, **SETTINGS)
    value, momentum = torch.tensor([1.0, -2.0]), torch.zeros(2)
    for gradient in (torch.tensor([0.5, 3.0]), torch.tensor([-1.0, 1.0])):
        parameter.grad = gradient.clone()
        optimizer.step()
        masked = gradient * torch.tensor([4.0, 0.5]) + 0.05 * value  # the decay is not masked
        momentum = 0.9 * momentum + masked
        value = value - 0.1 * (masked + 0.9 * momentum)
        torch.testing.assert_close(parameter.detach(), value)
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("implementation", [{}, {"foreach": True}, {"foreach": False}, {"fused": True}])
def test_equals_sgd_on_masked_gradients(implementation: dict[str, bool]) -> None:
    model, reference = network(), network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS, **implementation)
    sgd = torch.optim.SGD(reference.parameters(), **SETTINGS, **implementation)
    masks = masks_of(reference)
    train(model, optimizer, range(4))
    for step in range(4):
        sgd.zero_grad()
        reference(images(step)).square().mean().backward()
        for parameter, mask in masks.items():
            assert parameter.grad is not None
            parameter.grad *= mask
        sgd.step()
    assert_bit_equal(list(model.parameters()), list(reference.parameters()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_masks_it_is_sgd(momentum: float) -> None:
    settings = {**SETTINGS, "momentum": momentum, "nesterov": momentum > 0}
    model, reference = network(), network()
    optimizer = RepSGD(model.parameters(), {}, **settings)
    sgd = torch.optim.SGD(reference.parameters(), **settings)
    assert_bit_equal(train(model, optimizer, range(4)), train(reference, sgd, range(4)))
    assert optimizer.state_dict()["state"].keys() == sgd.state_dict()["state"].keys()


def test_gradients_stay_and_can_be_accumulated() -> None:
    model, reference = network(), network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)
    for step in range(2):  # of one window
        (model(images(step)).square().mean() / 2).backward()
        (reference(images(step)).square().mean() / 2).backward()
    summed = [parameter.grad for parameter in model.parameters()]
    optimizer.step()
    for parameter, other, before in zip(model.parameters(), reference.parameters(), summed, strict=True):
        assert parameter.grad is before
        assert torch.equal(parameter.grad, other.grad)


def test_a_closure_computes_the_gradients_that_are_masked() -> None:
    model, reference = network(), network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)

    def closure() -> float:
        optimizer.zero_grad()
        loss: Tensor = model(images(0)).square().mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    train(reference, RepSGD(reference.parameters(), masks_of(reference), **SETTINGS), range(1))
    assert_bit_equal(list(model.parameters()), list(reference.parameters()))


def test_step_hooks_run_once() -> None:
    model = network()
    torch.optim.SGD(network().parameters(), lr=0.1)  # torch wraps the step of a class when one is made
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, range(1))
    assert calls == ["before", "after"]


def test_gradient_scaler() -> None:
    model, reference = network(), network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: exact
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(images(step)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    train(reference, RepSGD(reference.parameters(), masks_of(reference), **SETTINGS), range(3))
    assert_bit_equal(list(model.parameters()), list(reference.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    scaler.scale(model(images(3)).square().mean() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_bit_equal(list(model.parameters()), before)
    assert scaler.get_scale() == 512.0


def test_its_state_brings_the_masks_back(tmp_path: Path) -> None:
    """As a resume has it: a checkpoint, a fresh network, an optimizer without masks."""
    model = network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)
    train(model, optimizer, range(3))
    path = tmp_path / "last_ckpt.pt"
    rest = {"ema": model.state_dict(), "config": {}, "names": ["x"], "metrics": {}, "epoch": 1}
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    write_checkpoint(path, {"kind": "training", **states, **rest})
    uninterrupted = train(model, optimizer, range(3, 6))

    content = read_checkpoint(path)
    resumed = network()
    resumed.load_state_dict(content["model"])
    again = RepSGD(resumed.parameters(), {}, **SETTINGS)
    again.load_state_dict(content["optimizer"])
    assert_bit_equal(list(again.gradient_masks.values()), list(masks_of(model).values()))
    assert_bit_equal(train(resumed, again, range(3, 6)), uninterrupted)


def test_loaded_masks_take_the_type_of_their_parameter() -> None:
    model, double = network(), network().double()
    state = RepSGD(model.parameters(), masks_of(model), **SETTINGS).state_dict()
    optimizer = RepSGD(double.parameters(), {}, **SETTINGS)
    optimizer.load_state_dict(state)
    assert {mask.dtype for mask in optimizer.gradient_masks.values()} == {torch.float64}
    assert list(optimizer.gradient_masks) == [double[0].weight, double[3].weight]


def test_masks_are_copied_in_the_layout_of_their_parameter() -> None:
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masks = masks_of(model)
    optimizer = RepSGD(model.parameters(), masks, **SETTINGS)
    given = masks[model[3].weight]
    kept = optimizer.gradient_masks[model[3].weight]
    assert kept.stride() == model[3].weight.stride() != given.stride()
    given.zero_()
    assert kept.min() >= 0.5


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_continue_equally(way: str) -> None:
    model = network()
    optimizer = RepSGD(model.parameters(), masks_of(model), **SETTINGS)
    train(model, optimizer, range(2))
    if way == "deepcopy":
        other, copied = copy.deepcopy((model, optimizer))
    else:
        file = io.BytesIO()
        torch.save((model, optimizer), file)
        file.seek(0)
        other, copied = torch.load(file, weights_only=False)
    assert isinstance(copied, RepSGD)
    assert_bit_equal(train(other, copied, range(2, 4)), train(model, optimizer, range(2, 4)))


def test_refuses_masks_that_fit_no_parameter() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        RepSGD([parameter], {parameter: torch.ones(3, 2)}, lr=0.1)
    with pytest.raises(ValueError, match="no parameter that is optimised"):
        RepSGD([parameter], {nn.Parameter(torch.zeros(1)): torch.ones(1)}, lr=0.1)
