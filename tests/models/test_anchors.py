"""Anchor points and box code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov6_ignite.models.anchors import (
    anchor_points,
    boxes_to_distances,
    distances_to_boxes,
    distribution_to_distances,
)

numbers = st.floats(-100, 100, width=32)


def test_points_are_cell_centres_in_pixels_row_by_row() -> None:
    points, stride = anchor_points([(2, 3), (1, 1)], [8, 16])
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert stride.tolist() == [[8]] * 6 + [[16]]


@settings(deadline=None)  # the first call of an operation is slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_points_lie_at_half_cells_inside_their_level(sizes: list[tuple[int, int]], dtype: torch.dtype) -> None:
    strides = [8 * 2**level for level in range(len(sizes))]
    points, stride = anchor_points(sizes, strides, "cpu", dtype)
    assert points.dtype == stride.dtype == dtype
    assert points.shape == (sum(h * w for h, w in sizes), 2)
    assert ((points / stride) % 1 == 0.5).all()
    limits = torch.cat([torch.tensor([[w, h]]).expand(h * w, 2) for h, w in sizes])
    assert (points / stride < limits).all()
    assert len({(*p, s) for p, (s,) in zip(points.tolist(), stride.tolist(), strict=True)}) == len(points)


def test_levels_and_strides_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        anchor_points([(2, 2)], [8, 16])


@settings(deadline=None)  # the first call of an operation is slow
@given(st.tuples(numbers, numbers), st.tuples(*[st.floats(0, 15.5, width=32)] * 4))
def test_box_code_is_its_own_inverse(point: tuple[float, float], distances: tuple[float, ...]) -> None:
    points, expected = torch.tensor(point), torch.tensor(distances)
    boxes = distances_to_boxes(expected, points)
    assert (boxes[:2] <= points).all()
    assert (boxes[2:] >= points).all()
    torch.testing.assert_close(boxes_to_distances(boxes, points, 16), expected, rtol=0, atol=1e-4)


def test_distances_are_clipped_to_what_bins_express() -> None:
    boxes = torch.tensor([[-20.0, 3.0, 2.0, 30.0]])
    distances = boxes_to_distances(boxes, torch.tensor([[1.0, 1.0]]), 16)
    torch.testing.assert_close(distances, torch.tensor([[15.99, 0.0, 1.0, 15.99]]))


def test_points_broadcast_over_a_batch() -> None:
    boxes = distances_to_boxes(torch.ones(2, 3, 4), torch.arange(6.0).reshape(3, 2))
    assert boxes[1].tolist() == [[-1, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6]]


@pytest.mark.parametrize("reg_max", [8, 16])
def test_expected_distance_of_a_distribution(reg_max: int) -> None:
    logits = torch.full((2, 4, reg_max + 1), -1e4)
    sides = torch.tensor([[0, 3, 5, reg_max], [1, 1, 2, 7]])
    logits.scatter_(2, sides[..., None], 0.0)
    torch.testing.assert_close(distribution_to_distances(logits.flatten(1)), sides.float())
    assert distribution_to_distances(torch.zeros(1, 4 * (reg_max + 1))).tolist() == [[reg_max / 2] * 4]


def test_expected_distance_stays_exact_under_autocast() -> None:
    logits = torch.randn(5, 68)
    expected = distribution_to_distances(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distribution_to_distances(logits), expected)
