"""Sums that one device of the recipe would see."""

from __future__ import annotations

import torch

from yolov6_ignite.losses.normaliser import ReferenceSums, one_if_zero


def test_sums_of_any_type_are_divided_by_the_recipes_devices() -> None:
    scores, count = ReferenceSums(4)(torch.tensor(10.0), torch.tensor(3))
    assert (scores.item(), count.item()) == (2.5, 0.75)
    assert scores.dtype == count.dtype == torch.float32


def test_no_gradient_passes() -> None:
    (total,) = ReferenceSums()(torch.tensor(2.0, requires_grad=True))
    assert not total.requires_grad


def test_only_zero_is_replaced() -> None:
    assert [one_if_zero(torch.tensor(x)).item() for x in (0.0, 0.25, 7.0)] == [1, 0.25, 7]
