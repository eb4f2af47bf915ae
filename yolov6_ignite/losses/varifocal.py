"""Varifocal classification loss from logits (arXiv:2008.13367; specification, training 11.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["varifocal_loss"]

BACKGROUND_WEIGHT = 0.75


def varifocal_loss(
    logits: Tensor, positive_index: Tensor, target_score: Tensor, valid: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Sum of the losses of all entries.

    With p the predicted probability, an entry that is no target costs 0.75 p^2 BCE(p, 0); the target class of a
    positive anchor, with target score q, costs q BCE(p, q). The gradient goes through p^2 too.

    Args:
        logits: (batch, A, classes) of any float type; computed in fp32.
        positive_index: (n,) int64 positions of target entries in the flattened logits, distinct where `valid`.
        target_score: (n,) their target scores q.
        valid: (n,) bool, which of them count.
        weight: (n,) factors of their losses; None: 1. What is no target keeps its own.

    Returns:
        The sum, an fp32 scalar.
    """
    return _Varifocal.apply(logits, positive_index, target_score, valid, weight)


class _Varifocal(torch.autograd.Function):
    """All entries as background, then a correction of the few that are not; the gradient comes with the value.

    One tensor is kept for the backward pass instead of one an operation, and no targets are spread over classes.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positive_index: Tensor, target_score: Tensor, valid: Tensor, weight: Tensor | None
    ) -> Tensor:
        x = logits.float()
        loss, gradient = _background(x)
        total = loss.sum()

        x = x.flatten()[positive_index]
        background_loss, background_gradient = _background(x)
        factor = target_score if weight is None else target_score * weight
        positive_loss = factor * (F.softplus(x) - target_score * x)
        positive_gradient = factor * (x.sigmoid() - target_score)
        total += torch.where(valid, positive_loss - background_loss, 0).sum()
        correction = torch.where(valid, positive_gradient - background_gradient, 0)
        # Adding zero where not valid keeps the sum independent of its order.
        gradient.view(-1).scatter_add_(0, positive_index, correction)
        ctx.save_for_backward(gradient)
        ctx.logits_dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.logits_dtype), None, None, None, None


def _background(x: Tensor) -> tuple[Tensor, Tensor]:
    """0.75 p^2 softplus(x), which is 0.75 p^2 BCE(p, 0), and its derivative by x; in three tensors' memory."""
    p = x.sigmoid()
    weight = (p * BACKGROUND_WEIGHT).mul_(p)
    loss = F.softplus(x).mul_(weight)
    # d/dx = weight p + 2 (1 - p) loss
    gradient = weight.mul_(p).addcmul_(p.sub_(1), loss, value=-2)
    return loss, gradient
