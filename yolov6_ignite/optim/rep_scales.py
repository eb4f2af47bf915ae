"""What RepOptimizer takes over from its hyper-search: the first kernels and the gradient masks.

A hyper-search trains three scaled branches a block (:class:`~yolov6_ignite.models.linear_add.LinearAddBlock`). The
network that is trained afterwards has one convolution in its place
(:class:`~yolov6_ignite.models.linear_add.RealVGGBlock`) that starts, and with :class:`~yolov6_ignite.optim.RepSGD`
moves, as if it were those branches with their scales fixed (specification, models 12; https://arxiv.org/abs/2205.15242).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models.linear_add import RealVGGBlock
from yolov6_ignite.models.repvgg import identity_kernel

__all__ = ["BlockScales", "gradient_masks", "reinitialise", "rep_scales"]

SCALE_3X3, SCALE_1X1, SCALE_IDENTITY = ".scale_conv.weight", ".scale_1x1.weight", ".scale_identity.weight"


class BlockScales(NamedTuple):
    """The learned scales of a block's branches, each (output channels,); a block may have no identity."""

    scale_3x3: Tensor
    scale_1x1: Tensor
    scale_identity: Tensor | None


def rep_scales(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, BlockScales]:
    """The scales of every block of a model to train, found by the blocks' names.

    Args:
        model: has :class:`RealVGGBlock` (``model.training_mode: repopt``).
        state: state dict of a hyper-search of the same network.
        source: where it is from, for messages.

    Returns:
        {path of the block in the model: its scales}, in the model's order.

    Raises:
        ConfigError: the state is of no hyper-search or of another network.
    """
    blocks = _blocks(model)
    searched = [key.removesuffix(SCALE_3X3) for key in state if key.endswith(SCALE_3X3)]
    if not searched:
        raise ConfigError(
            f"{source}: holds no scales of a hyper-search; give a checkpoint of a training with "
            "model.training_mode: hyper_search"
        )
    found = {}
    for path, block in blocks.items():
        scales = [state.get(path + suffix) for suffix in (SCALE_3X3, SCALE_1X1, SCALE_IDENTITY)]
        problem = _mismatch(block.conv, *scales)
        if problem is not None:
            raise _other_network(source, f"{path}: {problem}")
        scale_3x3, scale_1x1, scale_identity = scales
        assert scale_3x3 is not None
        assert scale_1x1 is not None
        found[path] = BlockScales(scale_3x3, scale_1x1, scale_identity)
    foreign = next((path for path in searched if path not in blocks), None)
    if foreign is not None:
        raise _other_network(source, f"{foreign}: this network has no such block")
    return found


@torch.no_grad()
def reinitialise(model: nn.Module, scales: Mapping[str, BlockScales]) -> None:
    """Gives fresh blocks the kernels that the sum of their branches would start with.

    ``s3 * W3 + pad(s1 * W1) + pad(diag(s_identity))``: W3 is what the block's convolution holds, W1 a new 1x1 kernel
    as torch initialises one, drawn on the CPU from its global generator in the order of ``scales``.

    Args:
        model: with fresh weights; changed in place.
        scales: from :func:`rep_scales`.
    """
    blocks = _blocks(model)
    for path, (scale_3x3, scale_1x1, scale_identity) in scales.items():
        conv = blocks[path].conv
        pointwise = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False).weight.to(conv.weight)
        conv.weight.copy_(_sum_of_branches(conv.weight, scale_3x3, pointwise, scale_1x1, scale_identity))


@torch.no_grad()
def gradient_masks(model: nn.Module, scales: Mapping[str, BlockScales]) -> dict[Tensor, Tensor]:
    """What multiplies the gradient of every block's kernel, for :class:`~yolov6_ignite.optim.RepSGD`.

    The squares of the scales: ``s3^2``, plus ``s1^2`` at the kernel's centre; plus 1 where its centre maps a channel to
    itself, if the block has an identity, whose scale is the one that goes on learning.

    Args:
        model: see :func:`rep_scales`.
        scales: from there.
    """
    blocks = _blocks(model)
    masks: dict[Tensor, Tensor] = {}
    for path, (scale_3x3, scale_1x1, scale_identity) in scales.items():
        kernel = blocks[path].conv.weight
        ones = torch.ones_like(kernel)
        identity = None if scale_identity is None else torch.ones_like(scale_identity)
        masks[kernel] = _sum_of_branches(ones, scale_3x3**2, ones[..., :1, :1], scale_1x1**2, identity)
    return masks


def _blocks(model: nn.Module) -> dict[str, RealVGGBlock]:
    return {path: module for path, module in model.named_modules() if isinstance(module, RealVGGBlock)}


def _sum_of_branches(
    kernel: Tensor, scale_3x3: Tensor, pointwise: Tensor, scale_1x1: Tensor, identity: Tensor | None
) -> Tensor:
    """The one kernel that equals three scaled branches, of the type and on the device of ``kernel``."""
    by_output = (-1, 1, 1, 1)
    whole = kernel * scale_3x3.to(kernel).reshape(by_output)
    whole = whole + F.pad(pointwise * scale_1x1.to(kernel).reshape(by_output), (1, 1, 1, 1))
    return whole if identity is None else whole + identity_kernel(identity.to(kernel))


def _mismatch(
    conv: nn.Conv2d, scale_3x3: Tensor | None, scale_1x1: Tensor | None, identity: Tensor | None
) -> str | None:
    """Why these cannot be the scales of the block of a convolution."""
    if scale_3x3 is None or scale_1x1 is None:
        return "it has no scales for this block"
    has_identity = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    if has_identity != (identity is not None):
        return f"its block has {'no' if has_identity else 'an'} identity, unlike the one of this network"
    for scale in (scale_3x3, scale_1x1, identity):
        if scale is not None and tuple(scale.shape) != (conv.out_channels,):
            return f"its block has {scale.numel()} channels, the one of this network {conv.out_channels}"
        if scale is not None and not bool(torch.isfinite(scale).all()):
            return "its scales are not finite; the hyper-search diverged"
    return None


def _other_network(source: str, problem: str) -> ConfigError:
    return ConfigError(
        f"{source}: {problem}; model.scales: give a checkpoint of the hyper-search of this very network, whose recipe "
        "differs in model.training_mode only"
    )
