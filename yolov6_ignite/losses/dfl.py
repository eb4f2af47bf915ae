"""Distribution focal loss (arXiv:2006.04388; specification, training 11.5)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distribution_focal_loss"]


def distribution_focal_loss(distribution: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy with the two bins around each target distance, weighted by nearness; mean over the four sides.

    Args:
        distribution: (..., 4 x (reg_max + 1)) logits over bins, side-major.
        distances: (..., 4) target distances in strides, within [0, reg_max).

    Returns:
        (...) losses, not reduced.
    """
    log_probabilities = distribution.unflatten(-1, (4, -1)).log_softmax(dim=-1)
    left = distances.floor()
    right_weight = (distances - left).unsqueeze(-1)
    index = left.long().unsqueeze(-1)
    entropy = log_probabilities.gather(-1, torch.cat((index, index + 1), dim=-1))
    return -(entropy * torch.cat((1 - right_weight, right_weight), dim=-1)).sum(dim=-1).mean(dim=-1)
