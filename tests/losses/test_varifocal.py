"""Varifocal loss: published numbers, and the analytic gradient against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from yolov6_ignite.losses.varifocal import varifocal_loss


def by_definition(logits: Tensor, target: Tensor, one_hot: Tensor) -> Tensor:
    """Dense targets, as in specification, training 11.3."""
    p = logits.sigmoid()
    weight = 0.75 * p.square() * (1 - one_hot) + target * one_hot
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def test_published_numbers() -> None:
    p = torch.tensor([0.2, 0.7], dtype=torch.float64)
    logits = torch.logit(p).float().view(1, 1, 2).requires_grad_()
    loss = varifocal_loss(logits, torch.tensor([1]), torch.tensor([0.6]), torch.tensor([True]))
    loss.backward()
    assert loss.item() == pytest.approx(0.42405076687, rel=1e-6)
    by_probability = logits.grad.flatten() / (p * (1 - p))
    torch.testing.assert_close(
        by_probability, torch.tensor([0.10444306657, 0.28571417928], dtype=torch.float64), rtol=1e-5, atol=0
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 3.0, 15.0]), positives=st.integers(0, 12))
def test_gradient(seed: int, scale: float, positives: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 7, 5, generator=generator)
    index = torch.randperm(70, generator=generator)[:positives]
    score = torch.rand(positives, generator=generator)
    # Slots without a positive anchor all name the first entry, whatever it is.
    padded = torch.cat((index, torch.zeros(4, dtype=torch.long)))
    valid = torch.arange(positives + 4) < positives

    target, one_hot = torch.zeros(70), torch.zeros(70)
    target[index], one_hot[index] = score, 1.0
    reference = logits.double().requires_grad_()
    expected = by_definition(reference, target.view_as(logits).double(), one_hot.view_as(logits).double())
    expected.backward()

    ours = logits.clone().requires_grad_()
    loss = varifocal_loss(ours, padded, torch.cat((score, torch.zeros(4))), valid)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[-1e4, -100.0, 100.0, 1e4]]], requires_grad=True)
    loss = varifocal_loss(logits, torch.tensor([0, 3]), torch.tensor([0.5, 0.5]), torch.tensor([True, True]))
    loss.backward()
    # Background at 100: 0.75 x 100; positives: 0.5 x BCE, half of |x| each.
    assert loss.item() == pytest.approx(75 + 0.25 * 1e4 * 2, rel=1e-6)
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-0.25, 0.0, 0.75, 0.25]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_fp32(dtype: torch.dtype) -> None:
    half = (torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(3)) - 3).to(dtype)
    slots = (torch.tensor([5, 77]), torch.tensor([0.4, 0.9]), torch.tensor([True, True]))
    low, full = half.clone().requires_grad_(), half.float().requires_grad_()
    loss = varifocal_loss(low, *slots)
    # A loss scale is applied before the gradient is rounded: small gradients survive it.
    (loss * 1024).backward()
    expected = varifocal_loss(full, *slots)
    (expected * 1024).backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert low.grad.dtype == dtype
    assert torch.equal(low.grad, full.grad.to(dtype))


def test_backward_twice_gives_the_same() -> None:
    logits = torch.randn(1, 4, 3, requires_grad=True)
    loss = varifocal_loss(logits, torch.tensor([2]), torch.tensor([0.3]), torch.tensor([True]))
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)
