"""Scales of a hyper-search: finding them, the kernels to start with, the gradient masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.models.linear_add import LinearAddBlock, RealVGGBlock, ScaleLayer
from yolov6_ignite.models.repvgg import identity_kernel
from yolov6_ignite.optim import BlockScales, gradient_masks, reinitialise, rep_scales
from yolov6_ignite.weights import read_weights


def one_block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(RealVGGBlock(channels_in, channels_out, stride))


def test_masks_by_hand() -> None:
    block = one_block(2, 2)
    scales = {"0": BlockScales(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), torch.tensor([7.0, -7.0]))}
    (kernel,), (mask,) = zip(*gradient_masks(block, scales).items(), strict=True)
    assert kernel is block[0].conv.weight
    expected = torch.tensor([[4.0, 4.0], [9.0, 9.0]]).reshape(2, 2, 1, 1).repeat(1, 1, 3, 3)
    expected[:, :, 1, 1] = torch.tensor([[6.0, 5.0], [9.25, 10.25]])  # the identity counts 1, whatever it learned
    assert torch.equal(mask, expected)


def test_masks_without_an_identity() -> None:
    scales = {"0": BlockScales(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), None)}
    (mask,) = gradient_masks(one_block(2, 2, stride=2), scales).values()
    assert torch.equal(mask[:, :, 1, 1], torch.tensor([[5.0, 5.0], [9.25, 9.25]]))
    assert torch.equal(mask[:, :, 0, 2], torch.tensor([[4.0, 4.0], [9.0, 9.0]]))


def test_first_kernels() -> None:
    block = one_block(2, 2)
    fresh = block[0].conv.weight.detach().clone()
    scales = {"0": BlockScales(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), torch.tensor([7.0, -7.0]))}
    torch.manual_seed(5)
    pointwise = nn.Conv2d(2, 2, 1, bias=False).weight.detach()
    torch.manual_seed(5)
    reinitialise(block, scales)
    expected = fresh * torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)
    expected[:, :, 1, 1] += pointwise[:, :, 0, 0] * torch.tensor([[1.0], [0.5]])
    expected[:, :, 1, 1] += torch.diag(torch.tensor([7.0, -7.0]))
    torch.testing.assert_close(block[0].conv.weight.detach(), expected)
    assert block[0].conv.weight.requires_grad


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 2), st.integers(0, 10**6))
def test_a_plain_step_moves_the_kernel_as_its_branches(
    channels_in: int, channels_out: int, stride: int, seed: int
) -> None:
    torch.manual_seed(seed)
    searched = nn.Sequential(LinearAddBlock(channels_in, channels_out, stride)).double()
    plain = one_block(channels_in, channels_out, stride).double()
    for module in searched.modules():
        if isinstance(module, ScaleLayer):
            nn.init.uniform_(module.weight, -2, 2)
    scales = rep_scales(plain, searched.state_dict(), "search.pt")
    (mask,) = gradient_masks(plain, scales).values()
    assert mask.shape == plain[0].conv.weight.shape
    s3, s1, identity = scales["0"]

    def one_kernel(dense: Tensor, pointwise: Tensor, diagonal: Tensor) -> Tensor:
        scaled = nn.functional.pad(pointwise * s1.reshape(-1, 1, 1, 1), (1, 1, 1, 1))
        whole = dense * s3.reshape(-1, 1, 1, 1) + scaled
        return whole if identity is None else whole + identity_kernel(diagonal)

    shapes = (mask.shape, (*mask.shape[:2], 1, 1), (channels_out,))
    branches = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    gradient = torch.randn_like(mask)
    moved = torch.autograd.grad(
        (one_kernel(*branches) * gradient).sum(), branches, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(gradient * mask, one_kernel(*moved))
    assert (identity is not None) == (channels_in == channels_out and stride == 1)


@pytest.mark.parametrize("recipe", ["n", "_tiny", "s"])
def test_every_block_of_the_published_networks_has_scales(recipe: str) -> None:
    name = f"repopt/yolov6{recipe}"
    with torch.device("meta"):
        searched = build_model(load_config(f"{name}_hs").model, 80)
        plain = build_model(load_config(f"{name}_opt").model, 80)
    state = {key: torch.ones(value.shape) for key, value in searched.state_dict().items() if "scale" in key}
    scales = rep_scales(plain, state, "search.pt")
    assert len(scales) == 35
    assert sum(scale.scale_identity is not None for scale in scales.values()) == 28


def test_scales_come_from_a_checkpoint_by_name(repopt_config: Callable[..., Config], tmp_path: Path) -> None:
    config = repopt_config("hyper_search")
    searched, plain = build_model(config.model, 3), build_model(repopt_config("repopt").model, 3)
    for module in searched.modules():
        if isinstance(module, ScaleLayer):
            nn.init.uniform_(module.weight)
    path = tmp_path / "best_ckpt.pt"
    whole = config.model_dump(mode="json")
    write_weights(path, state=searched.state_dict(), config=whole, names=["a", "b", "c"], metrics={}, epoch=3)
    state = read_weights(path).state
    scales = rep_scales(plain, dict(reversed(state.items())), str(path))  # no order of keys matters
    blocks = dict(searched.named_modules())
    assert [path for path, module in plain.named_modules() if isinstance(module, RealVGGBlock)] == list(scales)
    for name, (scale_3x3, scale_1x1, identity) in scales.items():
        block = blocks[name]
        assert isinstance(block, LinearAddBlock)
        torch.testing.assert_close(scale_3x3, block.scale_conv.weight.detach().half().float())
        torch.testing.assert_close(scale_1x1, block.scale_1x1.weight.detach().half().float())
        assert (identity is None) == (block.scale_identity is None)


def changed(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    match kind:
        case "no hyper-search":
            return {key: value for key, value in state.items() if "scale" not in key}
        case "missing block":
            return {key: value for key, value in state.items() if not key.startswith("1.")}
        case "foreign block":
            return {**state, "9.scale_conv.weight": torch.ones(8)}
        case "half a block":
            return {key: value for key, value in state.items() if key != "1.scale_1x1.weight"}
        case "channels":
            return {**state, "1.scale_conv.weight": torch.ones(12)}
        case "new identity":
            return {**state, "0.scale_identity.weight": torch.ones(8)}
        case "lost identity":
            return {key: value for key, value in state.items() if key != "1.scale_identity.weight"}
    return {**state, "1.scale_identity.weight": torch.full((8,), float("nan"))}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no hyper-search", r"^run/best.pt: holds no scales .* model.training_mode: hyper_search"),
        ("missing block", r"^run/best.pt: 1: it has no scales for this block; .* this very network"),
        ("foreign block", r"^run/best.pt: 9: this network has no such block; "),
        ("half a block", r"^run/best.pt: 1: it has no scales"),
        ("channels", r"^run/best.pt: 1: its block has 12 channels, the one of this network 8; "),
        ("new identity", r"^run/best.pt: 0: its block has an identity, unlike"),
        ("lost identity", r"^run/best.pt: 1: its block has no identity, unlike"),
        ("not finite", r"^run/best.pt: 1: its scales are not finite"),
    ],
)
def test_refuses_the_scales_of_another_network(
    kind: str, message: str, make_stack: Callable[[type[nn.Module]], nn.Module]
) -> None:
    state = dict(make_stack(LinearAddBlock).state_dict())
    plain = make_stack(RealVGGBlock)
    assert len(rep_scales(plain, state, "run/best.pt")) == 5
    with pytest.raises(ConfigError, match=message):
        rep_scales(plain, changed(state, kind), "run/best.pt")
