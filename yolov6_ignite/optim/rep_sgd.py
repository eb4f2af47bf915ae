"""SGD whose gradients are scaled element by element: the optimizer of RepOptimizer (specification, models 12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

__all__ = ["RepSGD"]

MASK = "gradient_mask"


class RepSGD(torch.optim.SGD):
    """:class:`torch.optim.SGD` that multiplies some parameters' gradients with masks; weight decay is not masked.

    "Re-parameterizing Your Optimizers rather than Architectures" (https://arxiv.org/abs/2205.15242): with the masks
    of :func:`yolov6_ignite.optim.gradient_masks` a plain convolution moves as the sum of three scaled branches would.

    A mask is a part of its parameter's state, beside the momentum buffer: ``state_dict`` carries it, and
    ``load_state_dict`` takes the masks of what it loads, so a resumed run needs none to begin with. ``grad`` stays
    as it is. Without masks this is SGD to the bit.

    Args:
        params: as in :class:`torch.optim.SGD`.
        gradient_masks: a tensor of its shape for every masked parameter; copied.
        **settings: of :class:`torch.optim.SGD`: ``lr``, ``momentum``, ``nesterov``, ``weight_decay``, ...

    Raises:
        ValueError: a mask is of another shape than its parameter, or of none that is optimised.
    """

    def __init__(self, params: ParamsT, gradient_masks: Mapping[Tensor, Tensor], **settings: Any) -> None:
        super().__init__(params, **settings)
        optimised = {parameter for group in self.param_groups for parameter in group["params"]}
        for parameter, mask in gradient_masks.items():
            if parameter not in optimised:
                raise ValueError(f"a gradient mask {tuple(mask.shape)} is of no parameter that is optimised")
            if mask.shape != parameter.shape:
                raise ValueError(f"gradient mask {tuple(mask.shape)} of a parameter {tuple(parameter.shape)}")
            self.state[parameter][MASK] = torch.empty_like(parameter).copy_(mask.detach())

    @property
    def gradient_masks(self) -> dict[Tensor, Tensor]:
        """Every masked parameter's mask."""
        return {parameter: state[MASK] for parameter, state in self.state.items() if MASK in state}

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        # Where torch's step collects what it works on: after the closure, and the same for all its implementations.
        has_sparse_grad: bool = super()._init_group(group, params, grads, momentum_buffer_list)
        masks = self.gradient_masks
        masked = [index for index, parameter in enumerate(params) if parameter in masks]
        if masked:
            products = torch._foreach_mul([grads[index] for index in masked], [masks[params[i]] for i in masked])
            for index, product in zip(masked, products, strict=True):
                grads[index] = product
        return has_sparse_grad
