"""Divergences of a student's predictions from a teacher's (specification, training 11.8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["class_divergence", "distribution_divergence"]


def class_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence over classes of the softened probabilities, summed over all anchors and multiplied by T^2.

    What is softened are the probabilities sigmoid(logits), not the logits: softmax(sigmoid(logits) / T).

    Args:
        logits: (batch, A, classes) of the student, any float type; computed in fp32.
        teacher_logits: the same of the teacher; it gets no gradient.
        temperature: T.

    Returns:
        The sum, an fp32 scalar.
    """
    return _ClassDivergence.apply(logits, teacher_logits.detach(), temperature)


def distribution_divergence(distribution: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence over bins of the softened distance distributions, summed over sides and multiplied by T^2.

    Args:
        distribution: (..., 4 x (reg_max + 1)) logits of the student, side-major, fp32.
        teacher: the same of the teacher; it gets no gradient.
        temperature: T.

    Returns:
        (...) divergences.
    """
    student, other = (x.unflatten(-1, (4, -1)) / temperature for x in (distribution, teacher.detach()))
    divergence = F.kl_div(student.log_softmax(dim=-1), other.softmax(dim=-1), reduction="none")
    return temperature**2 * divergence.sum(dim=(-2, -1))


class _ClassDivergence(torch.autograd.Function):
    """The gradient comes with the value: one tensor is kept for the backward pass instead of one an operation."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        probability = logits.float().sigmoid()
        q = (probability / temperature).softmax(dim=-1)
        p = teacher_logits.float().sigmoid().div_(temperature).softmax(dim=-1)
        # Softened distributions are so alike that fp32 rounds this by some 1e-5 of it. The logarithm of the softmax
        # is what the published numbers were computed from, so it is rounded as they were; the gradient is exact.
        total = temperature**2 * F.kl_div(q.log(), p, reduction="sum")
        # d/dx = T (q - p) s (1 - s), where s = sigmoid(x)
        gradient = q.sub_(p).mul_(probability).mul_(1 - probability).mul_(temperature)
        ctx.save_for_backward(gradient)
        ctx.logits_dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.logits_dtype), None, None
