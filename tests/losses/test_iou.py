"""IoU losses: published numbers, ranges, and gradients where they could fail."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov6_ignite.losses.iou import IoUKind, iou_loss

KINDS = get_args(IoUKind)
PREDICTED = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [1, 2, 5, 4], [1, 2, 5, 4]])
TARGET = torch.tensor([[1.0, 1, 5, 5], [3, 3, 6, 7], [1, 2, 5, 4], [2, 0, 3, 6]])
UPPER = {"giou": 2.0, "diou": 2.0, "ciou": 3.0, "siou": 3.0}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("giou", [0.68869565, 1.61904762, 0, 1.33333333]),
        ("diou", [0.64869565, 1.33235294, 0, 0.83814103]),
        ("ciou", [0.64869565, 1.33241899, 0, 0.94655749]),
        ("siou", [0.64790621, 1.30082588, 0, 0.91549751]),
    ],
)
def test_values(kind: IoUKind, expected: list[float]) -> None:
    torch.testing.assert_close(iou_loss(PREDICTED, TARGET, kind), torch.tensor(expected), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("giou", [-0.092053, -0.092053, -0.153422, -0.153422]),
        ("siou", [-0.079582, -0.079582, -0.132637, -0.132637]),
    ],
)
def test_gradients(kind: IoUKind, expected: list[float]) -> None:
    predicted = PREDICTED[0].clone().requires_grad_()
    iou_loss(predicted, TARGET[0], kind).backward()
    torch.testing.assert_close(predicted.grad, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_agrees_with_differences(kind: IoUKind) -> None:
    # The weight of the aspect term is a constant to the gradient, so the differences must not see it change.
    if kind == "ciou":
        pytest.skip("not the derivative of the value, by definition")
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 4
    boxes = torch.cat((corner, corner + 1 + torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 4), -1)
    predicted = boxes[:, 0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: iou_loss(x, boxes[:, 1], kind), (predicted,))


def test_ciou_weight_has_no_gradient() -> None:
    predicted = torch.tensor([0.0, 0, 4, 2], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 0, 4, 6], dtype=torch.float64)
    iou_loss(predicted, target, "ciou").backward()

    with torch.no_grad():
        aspect = 4 / torch.pi**2 * (torch.atan(torch.tensor(4 / 6)) - torch.atan(torch.tensor(4 / 2))) ** 2
        weight = aspect / (aspect - 1 / 3 + 1)
    again = predicted.detach().clone().requires_grad_()
    angle = torch.atan((again[2] - again[0]) / (again[3] - again[1]))
    extra = weight * 4 / torch.pi**2 * (torch.atan(target[2] / target[3]) - angle) ** 2
    (iou_loss(again, target, "diou") + extra).backward()
    torch.testing.assert_close(predicted.grad, again.grad, rtol=1e-6, atol=1e-9)


coordinates = st.floats(0, 80, width=32)
sides = st.floats(0.125, 80, width=32)
boxes = st.tuples(coordinates, coordinates, sides, sides).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(predicted=boxes, target=boxes)
def test_range(kind: IoUKind, predicted: tuple[float, ...], target: tuple[float, ...]) -> None:
    x = torch.tensor(predicted, requires_grad=True)
    loss = iou_loss(x, torch.tensor(target), kind)
    loss.backward()
    assert -1e-5 <= loss <= UPPER[kind] + 1e-5
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(box=boxes)
def test_equal_boxes_cost_nothing(kind: IoUKind, box: tuple[float, ...]) -> None:
    x = torch.tensor(box, requires_grad=True)
    loss = iou_loss(x, torch.tensor(box), kind)
    loss.backward()
    assert abs(loss) < 1e-5
    assert x.grad.isfinite().all()
