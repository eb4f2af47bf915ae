from __future__ import annotations

import numpy as np
import pytest

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data import DatasetIndex
from yolov6_ignite.data.mosaic import draw_mosaic
from yolov6_ignite.data.source import ImageSource

REPEATS = np.array([1, 2.5, 1, 1.25, 1, 1, 1])


@pytest.mark.parametrize("repeats", [None, REPEATS])
def test_images_are_drawn_as_often_as_they_are_shown(index: DatasetIndex, repeats: np.ndarray | None) -> None:
    source = ImageSource(index, (64, 64), repeats=repeats)
    drawn = np.bincount(source.draw(np.random.default_rng(0), 20_000), minlength=7) / 20_000
    expected = np.ones(7) if repeats is None else repeats
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.01)
    partners = [
        draw_mosaic(np.random.default_rng(i), 0, source, (64, 64), AugmentConfig()).indices for i in range(2000)
    ]
    seen = np.bincount(np.ravel(partners), minlength=7)[1:] / 6000  # without the sample's own
    np.testing.assert_allclose(seen, (expected / expected.sum())[1:], atol=0.03)


def test_without_repeats_draws_are_what_they_always_were(index: DatasetIndex) -> None:
    source = ImageSource(index, (64, 64))
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        assert source.draw(ours, 1)[0] == theirs.integers(7)
        assert source.draw(ours, 3) == theirs.integers(7, size=3).tolist()


def test_the_end_of_the_last_image_is_its_own(index: DatasetIndex) -> None:
    class AlmostOne(np.random.Generator):
        def random(self, size: int) -> np.ndarray:  # type: ignore[override]
            return np.ones(size)

    source = ImageSource(index, (64, 64), repeats=REPEATS)
    assert source.draw(AlmostOne(np.random.PCG64(0)), 3) == [6, 6, 6]
