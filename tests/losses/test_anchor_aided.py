"""The anchor-aided branch's objective against published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov6_ignite.losses import AnchorAidedLoss

SIZE = (128, 160)
TARGETS = torch.tensor(
    [
        [0, 1, 0.30, 0.40, 0.35, 0.50],
        [0, 2, 0.55, 0.50, 0.60, 0.45],
        [0, 0, 0.80, 0.20, 0.10, 0.12],
        [1, 0, 0.5, 0.5, 0.9, 0.9],
    ]
)


@pytest.mark.parametrize(
    ("iou_type", "targets", "total", "items", "gradients"),
    [
        ("giou", TARGETS, 274.4019146144, (1.39361176, 0, 273.00830285), (1753.102417, 1.175387)),
        ("siou", TARGETS, 274.3811383697, (1.37283552, 0, 273.00830285), (1753.102417, 1.122006)),
        ("giou", TARGETS[:0], 2598.5424804688, (0, 0, 2598.54248047), (16734.841797, 0)),
    ],
)
def test_published_numbers(
    iou_type: Any,
    targets: Tensor,
    total: float,
    items: tuple[float, ...],
    gradients: tuple[float, float],
    pseudo_random: Callable[..., Tensor],
    make_output: Callable[..., Any],
) -> None:
    p = (0.9 * pseudo_random(3, 2, 1260, 3) + 0.05).double()
    logits = torch.logit(p).float().requires_grad_()
    boxes = torch.cat((pseudo_random(4, 2, 1260, 2) - 0.5, 6 * pseudo_random(5, 2, 1260, 2) + 0.5), -1).requires_grad_()
    output = make_output(torch.zeros(2, 420, 3), torch.zeros(2, 420, 4), SIZE)
    output = output._replace(anchor_logits=logits, anchor_boxes=boxes)
    got, terms = AnchorAidedLoss(3, iou_type=iou_type)(output, targets, epoch=3, max_epochs=20, image_size=SIZE)
    got.backward()
    assert got.item() == pytest.approx(total, rel=1e-5)
    assert [terms[name].item() for name in ("iou", "dfl", "cls")] == pytest.approx(items, rel=1e-5)
    by_probability = (logits.grad / (p * (1 - p))).abs().sum().item()
    assert (by_probability, boxes.grad.abs().sum().item()) == pytest.approx(gradients, rel=1e-4)


def test_a_perfect_box_costs_nothing(make_output: Callable[..., Any]) -> None:
    """The second anchor of cell (3, 2) of the second level, anchor-major: its centre is (56, 40) pixels."""
    output = make_output(torch.zeros(1, 84, 1), torch.zeros(1, 84, 4), (64, 64))
    boxes = torch.cat((torch.zeros(1, 252, 2), torch.full((1, 252, 2), 0.01)), -1)
    index = 3 * 64 + 16 + 2 * 4 + 3
    boxes[0, index] = torch.tensor([0.25, -0.125, 1.5, 2.0])
    logits = torch.full((1, 252, 1), -20.0)
    logits[0, index] = 20.0
    box = torch.tensor([[0, 0, 60 / 64, 38 / 64, 24 / 64, 32 / 64]])
    output = output._replace(anchor_logits=logits, anchor_boxes=boxes)
    total, _ = AnchorAidedLoss(1)(output, box, epoch=0, max_epochs=1, image_size=(64, 64))
    assert total.item() == pytest.approx(0, abs=1e-4)


def test_network_without_the_branch(make_output: Callable[..., Any]) -> None:
    output = make_output(torch.zeros(2, 420, 3), torch.zeros(2, 420, 4), SIZE)
    with pytest.raises(ValueError, match="no anchor-aided branch"):
        AnchorAidedLoss(3)(output, TARGETS, epoch=0, max_epochs=1, image_size=SIZE)
