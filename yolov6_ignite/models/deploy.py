"""Turning a training network into the one that is deployed: batch norms folded, parallel branches merged."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Fusable", "deployed", "fold_batch_norm", "fused_conv", "scale_and_shift"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Fusable(nn.Module):
    """A block that has a simpler form for inference."""

    def fuse(self) -> None:
        """Rewrites the block in place so that eval mode gives the same output with fewer operations."""
        raise NotImplementedError


def deployed(model: ModuleT) -> ModuleT:
    """A copy of `model` in eval mode with every :class:`Fusable` fused and all gradients off."""
    model = copy.deepcopy(model)
    _fuse(model)
    return model.eval().requires_grad_(False)


def _fuse(module: nn.Module) -> None:
    if isinstance(module, Fusable):
        module.fuse()
    for child in module.children():
        _fuse(child)


def scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The affine map that a batch norm is in eval mode: (channels,) scale and shift in float64."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    mean, var, weight, bias = (_double(tensor) for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    scale = weight / torch.sqrt(var + bn.eps)
    return scale, bias - mean * scale


def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias, in float64, of the one convolution that equals `bn(conv(x))` in eval mode."""
    scale, shift = scale_and_shift(bn)
    bias = shift if conv.bias is None else shift + scale * _double(conv.bias)
    return _double(conv.weight) * scale.reshape(-1, 1, 1, 1), bias


def fused_conv(like: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of `like`'s geometry, device and type with the given kernel and bias.

    Raises:
        TypeError: `like` is of a subclass, which the result would not be.
    """
    if type(like) is not nn.Conv2d:
        raise TypeError(f"a {type(like).__name__} cannot be fused here; fold_batch_norms is for quantised models")
    weight = like.weight
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        device="meta",  # the parameters are replaced: no memory and no random numbers for the first ones
    )
    conv.weight = nn.Parameter(kernel.to(weight.device, weight.dtype))
    conv.bias = nn.Parameter(bias.to(weight.device, weight.dtype))
    return conv


def _double(tensor: Tensor) -> Tensor:
    device = torch.device("cpu") if tensor.device.type == "mps" else tensor.device  # MPS has no float64
    return tensor.detach().to(device, torch.float64)
