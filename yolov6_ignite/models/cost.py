"""What a network costs: parameters and floating-point operations (specification, models 10)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_parameters", "gflops"]


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops(model: nn.Module, image_size: int | tuple[int, int]) -> float:
    """Billions of operations to detect in one image, two for each multiply-add of a convolution.

    The model is left alone; nothing is computed, so this takes a moment whatever the size.

    Args:
        model: a detector, or its deployed copy.
        image_size: (height, width) in pixels, or one number for both.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    model = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 1e9
