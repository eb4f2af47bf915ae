"""The optimizer and its three parameter groups (specification, training 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from yolov6_ignite.config import Config
from yolov6_ignite.optim.rep_scales import BlockScales, gradient_masks
from yolov6_ignite.optim.rep_sgd import RepSGD

__all__ = ["build_optimizer", "parameter_groups", "scaled_weight_decay"]


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (batch norm weights, other weights, biases), in module order.

    Parameters with other names (the frozen projection of a DFL head) are in no group.
    """
    norms: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            biases.append(bias)
        if isinstance(weight, nn.Parameter) and weight.requires_grad:
            (norms if isinstance(module, nn.BatchNorm2d) else weights).append(weight)
    return norms, weights, biases


def scaled_weight_decay(weight_decay: float, batch_size: int, nominal_batch_size: int) -> float:
    """Weight decay for the images that one optimizer step really sees (specification, training 4.3)."""
    accumulate = max(1, round(nominal_batch_size / batch_size))
    return weight_decay * batch_size * accumulate / nominal_batch_size


def build_optimizer(
    config: Config, model: nn.Module, scales: Mapping[str, BlockScales] | None = None
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW; only the weights that are no batch norm's decay.

    ``model.training_mode: repopt`` gets :class:`RepSGD`. The learning rates are set by the schedule before every step.

    Args:
        config: its ``solver`` section, and the batch that the weight decay is for.
        model: parameters without gradients are left out.
        scales: from :func:`yolov6_ignite.optim.rep_scales`; without them gradients are masked only once a state with
            masks is loaded.
    """
    solver = config.solver
    norms, weights, biases = parameter_groups(model)
    weight_decay = scaled_weight_decay(solver.weight_decay, config.data.images_per_batch, solver.nominal_batch_size)
    groups = [
        {"params": norms, "weight_decay": 0.0},
        {"params": weights, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    if solver.optim in {"Adam", "AdamW"}:
        adam = torch.optim.AdamW if solver.optim == "AdamW" else torch.optim.Adam
        return adam(groups, lr=solver.lr0, betas=(solver.momentum, 0.999))
    nesterov = solver.momentum > 0
    if config.model.training_mode != "repopt":
        return torch.optim.SGD(groups, lr=solver.lr0, momentum=solver.momentum, nesterov=nesterov)
    masks = {kernel: mask for kernel, mask in gradient_masks(model, scales or {}).items() if kernel.requires_grad}
    return RepSGD(groups, masks, lr=solver.lr0, momentum=solver.momentum, nesterov=nesterov)
