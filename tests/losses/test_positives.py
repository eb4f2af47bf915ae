"""Lists of positive anchors."""

from __future__ import annotations

import torch

from yolov6_ignite.assigners import Assignment, GroundTruth
from yolov6_ignite.losses.positives import gather_anchors, gather_positives

TRUTH = GroundTruth(
    labels=torch.tensor([[4, 7], [2, 0]]),
    boxes=torch.arange(16.0).view(2, 2, 4),
    valid=torch.tensor([[True, True], [True, False]]),
)
ASSIGNMENT = Assignment(
    gt_index=torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]),
    positive=torch.tensor([[False, True, False, True, True], [False, False, False, False, True]]),
    score=torch.tensor([[0, 0.5, 0, 0.25, 0.0], [0, 0, 0, 0, 0.75]]),
    capacity=4,
)
STRIDE = torch.tensor([[1.0], [2], [2], [4], [2]])
POINTS = torch.tensor([[0.5, 0.5], [1, 3], [1, 1], [2, 6], [5, 1]])


def test_slots_hold_the_positives_in_order() -> None:
    positives = gather_positives(ASSIGNMENT, TRUTH, POINTS, STRIDE)
    assert positives.valid.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert positives.anchor_index.tolist() == [[1, 3, 4, 0], [4, 0, 0, 0]]
    assert positives.labels[positives.valid].tolist() == [7, 4, 4, 2]
    assert positives.scores.tolist() == [[0.5, 0.25, 0.0, 0.0], [0.75, 0, 0, 0]]
    assert positives.boxes[0, :2].tolist() == [[2, 2.5, 3, 3.5], [0, 0.25, 0.5, 0.75]]
    assert positives.points[0, :3].tolist() == [[0.5, 1.5], [0.5, 1.5], [2.5, 0.5]]


def test_full_capacity() -> None:
    full = ASSIGNMENT._replace(positive=torch.ones(2, 5, dtype=torch.bool), capacity=5)
    positives = gather_positives(full, TRUTH, POINTS, STRIDE)
    assert positives.valid.all()
    assert positives.anchor_index.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_only_gathered_rows_get_gradients() -> None:
    values = torch.randn(2, 5, 3, requires_grad=True)
    index = torch.tensor([[1, 4], [0, 2]])
    rows = gather_anchors(values, index)
    assert torch.equal(rows[1, 1], values[1, 2])
    rows.sum().backward()
    assert values.grad.sum(-1).tolist() == [[0, 3, 0, 0, 3], [3, 0, 3, 0, 0]]
