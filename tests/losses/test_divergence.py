"""Divergences from a teacher against their definitions in float64, and the analytic gradient against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.losses.divergence import class_divergence, distribution_divergence
from yolov6_ignite.losses.feature_distillation import channel_wise_divergence


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) | softmax(student)) over the last dimension."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([1.0, 4.0, 20.0]), classes=st.sampled_from([1, 2, 20]))
def test_classes(seed: int, temperature: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, 2, 9, classes, generator=generator)
    reference = student.double().requires_grad_()
    expected = temperature**2 * kl(reference.sigmoid() / temperature, teacher.double().sigmoid() / temperature).sum()
    expected.backward()

    ours = student.clone().requires_grad_()
    loss = class_divergence(ours, teacher.requires_grad_(), temperature)
    loss.backward()
    rounding = 18 * temperature**2 * 2e-7
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=rounding)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-6 * temperature)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_fp32(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 3, 40, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    low, full = student.clone().requires_grad_(), student.float().requires_grad_()
    loss = class_divergence(low, teacher, 20.0)
    (1024 * loss).backward()
    expected = class_divergence(full, teacher.float(), 20.0)
    (1024 * expected).backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(low.grad, full.grad.to(dtype))


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_distributions(temperature: float) -> None:
    student, teacher = 3 * torch.randn(2, 4, 7, 68, generator=torch.Generator().manual_seed(0))
    got = distribution_divergence(student, teacher, temperature)
    sides = [x.double().reshape(4, 7, 4, 17) / temperature for x in (student, teacher)]
    torch.testing.assert_close(got.double(), temperature**2 * kl(*sides).sum(-1), rtol=1e-4, atol=1e-4)


def test_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 6, 8, 8), (3, 2, 4, 4))
    student, teacher = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    expected = sum(
        kl(s.double().flatten(2), t.double().flatten(2)).sum() / s.shape[1]
        for s, t in zip(student, teacher, strict=True)
    )
    assert channel_wise_divergence(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_constant_added_to_a_channel_changes_nothing() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([1.0, -2, 3]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        channel_wise_divergence([student + shift], [teacher]), channel_wise_divergence([student], [teacher - shift])
    )
