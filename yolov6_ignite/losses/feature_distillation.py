"""Channel-wise knowledge distillation of the neck's maps (arXiv:2011.13256; specification, training 11.8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["channel_wise_divergence"]


def channel_wise_divergence(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """KL divergence of where in the image a channel is active, the teacher's from the student's.

    Args:
        student: (batch, channels, height, width) maps, one a level; computed in fp32.
        teacher: maps of the same shapes, without gradient.

    Returns:
        A scalar: summed over levels and images, the mean over channels.
    """
    levels = zip(student, teacher, strict=True)
    return torch.stack([_level(own, other.detach()) / own.shape[1] for own, other in levels]).sum()


def _level(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, log_p = (x.flatten(2).float().log_softmax(dim=-1) for x in (student, teacher))
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)
