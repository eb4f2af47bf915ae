from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.affine import AffineDraw, affine_matrix, draw_affine, transform_boxes

IDENTITY = AffineDraw(0, 1, 0, 0, 0.5, 0.5)
draws = st.builds(
    AffineDraw, st.floats(-180, 180), st.floats(0.2, 1.8), st.floats(-30, 30), st.floats(-30, 30),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip


def test_matrix_is_the_references() -> None:
    generator = random.Random(0)
    ranges = [(-10, 10), (0.5, 1.5), (-2, 2), (-2, 2), (0.4, 0.6), (0.4, 0.6)]
    draw = AffineDraw(*(generator.uniform(*limits) for limits in ranges))
    assert draw.scale == pytest.approx(1.2579544)
    expected = [[1.249711, 0.143949, -228.199679], [-0.171896, 1.246334, -151.923556], [0, 0, 1]]
    np.testing.assert_allclose(affine_matrix(draw, (512, 512), (256, 256)), expected, atol=1e-6)


def test_the_centre_goes_to_its_place() -> None:
    draw = AffineDraw(33, 0.7, 5, -8, 0.25, 0.6)
    matrix = affine_matrix(draw, (100, 200), (50, 80))
    np.testing.assert_allclose(matrix @ [100, 50, 1], [20, 30, 1])


def test_draws_stay_in_their_ranges() -> None:
    augment = AugmentConfig(degrees=10, scale=0.5, shear=2, translate=0.1)
    rng = np.random.default_rng(0)
    numbers = np.array([draw_affine(rng, augment) for _ in range(2000)])
    low, high = np.array([-10, 0.5, -2, -2, 0.4, 0.4]), np.array([10, 1.5, 2, 2, 0.6, 0.6])
    assert (numbers >= low).all()
    assert (numbers <= high).all()
    np.testing.assert_allclose(numbers.mean(axis=0), (low + high) / 2, atol=0.05 * (high - low).max())
    np.testing.assert_allclose(numbers.std(axis=0), (high - low) / 12**0.5, rtol=0.06)


@given(draws, st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_boxes_enclose_their_transformed_content(draw: AffineDraw, x: float, y: float) -> None:
    source, target = (300, 400), (200, 250)
    matrix = affine_matrix(draw, source, target)
    box = np.array([[2, 100, 80, 220, 170]], dtype=np.float32)
    result = transform_boxes(box, matrix, draw.scale, target)
    if len(result):
        point = matrix @ [100 + 120 * x, 80 + 90 * y, 1]
        point = point[:2].clip(0, (target[1], target[0]))
        assert result[0, 0] == 2
        assert (result[0, 1:3] - 1e-2 <= point).all()
        assert (point <= result[0, 3:5] + 1e-2).all()
        assert (result[0, 1:] >= 0).all()
        assert (result[0, 3:] <= (target[1], target[0])).all()


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((10, 10, 12, 30), False),  # 2 px wide
        ((10, 10, 12.1, 30), True),
        ((-91, 0, 9, 50), False),  # 9 % are left
        ((-89, 0, 11, 50), True),
        ((0, 0, 99, 4.9), False),  # 20.2 times as wide as high
        ((0, 0, 99, 5.1), True),
        ((200, 200, 300, 300), False),
    ],
)
def test_what_is_kept(box: tuple[float, ...], kept: bool) -> None:
    rows = np.array([[1, *box]], dtype=np.float32)
    result = transform_boxes(rows, affine_matrix(IDENTITY, (100, 100), (100, 100)), 1.0, (100, 100))
    assert len(result) == kept


def test_no_boxes() -> None:
    result = transform_boxes(np.zeros((0, 5), np.float32), np.eye(3), 1.0, (100, 100))
    assert (result.shape, result.dtype) == ((0, 5), np.float32)
