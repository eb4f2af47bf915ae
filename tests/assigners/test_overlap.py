"""Overlap of boxes."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.assigners.overlap import box_iou, contains, corners, pair_corners


def test_pairs_and_aligned_boxes_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 9, 2, generator=generator) * 20
    boxes = torch.cat((corner, corner + torch.rand(2, 9, 2, generator=generator) * 20), -1)
    pairs = box_iou(corners(boxes[:, :4, None]), pair_corners(boxes))
    assert pairs.shape == (2, 4, 9)
    for i in range(4):
        for j in range(9):
            torch.testing.assert_close(pairs[:, i, j], box_iou(corners(boxes[:, i]), corners(boxes[:, j])))
    torch.testing.assert_close(pairs.diagonal(dim1=1, dim2=2), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.0, 0, 4, 4], [2.0, 2, 6, 6], 4 / 28),
        ([0.0, 0, 4, 4], [4.0, 0, 8, 4], 0.0),
        ([0.0, 0, 4, 4], [3.0, 3, 1, 1], 0.0),  # turned inside out, as distances below zero make it
        ([0.0, 0, 0, 0], [0.0, 0, 0, 0], 0.0),
    ],
)
def test_values(first: list[float], second: list[float], expected: float) -> None:
    iou = box_iou(corners(torch.tensor(first)), corners(torch.tensor(second)))
    assert iou.item() == pytest.approx(expected)


def test_a_point_on_the_edge_is_outside() -> None:
    box = corners(torch.tensor([[10.0, 10, 20, 20]])[:, None])
    x = torch.tensor([10.0, 10.001, 15, 20, 15])
    y = torch.tensor([15.0, 15, 19.999, 15, 10])
    assert contains(box, x, y).tolist() == [[False, True, True, False, False]]
