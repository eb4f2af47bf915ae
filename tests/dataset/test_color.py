from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.color import apply_hsv_gains, blend, draw_hsv_gains

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


class Fixed:
    """Gives the numbers that the reference drew from ``np.random.seed(0)``."""

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        return np.random.RandomState(0).uniform(low, high, count)


def test_gains_are_the_references() -> None:
    gains = draw_hsv_gains(Fixed(), AugmentConfig())  # type: ignore[arg-type]
    np.testing.assert_allclose(gains, [1.0014644051, 1.3012651129, 1.0822107009], rtol=1e-9)


def test_no_ranges_no_draw() -> None:
    rng = np.random.default_rng(0)
    assert draw_hsv_gains(rng, AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0)) is None
    assert rng.random() == np.random.default_rng(0).random()


def test_hue_wraps_and_the_others_saturate() -> None:
    gains = np.array([1.7, 1.5, 1.9])
    hue, saturation, value = (channel.astype(float) for channel in cv2.split(cv2.cvtColor(PICTURE, cv2.COLOR_BGR2HSV)))
    expected = np.dstack([
        (hue * 1.7 % 180).astype(np.uint8),
        np.clip(saturation * 1.5, 0, 255).astype(np.uint8),
        np.clip(value * 1.9, 0, 255).astype(np.uint8),
    ])  # fmt: skip
    original = PICTURE.copy()
    result = apply_hsv_gains(PICTURE, gains)
    np.testing.assert_array_equal(result, cv2.cvtColor(expected, cv2.COLOR_HSV2RGB))
    np.testing.assert_array_equal(PICTURE, original)


def test_gains_of_one_only_reorder_channels() -> None:
    result = apply_hsv_gains(PICTURE, np.ones(3)).astype(int)
    assert np.abs(result - PICTURE[:, :, ::-1]).max() <= 6  # hue has 180 levels


@pytest.mark.parametrize("share", [0.3, 0.5567248135, 0.5])
def test_blending_truncates(share: float) -> None:
    other = PICTURE[::-1].copy()
    exact = PICTURE * share + other * (1 - share)
    result = blend(PICTURE, other, share)
    clear = np.abs(exact - exact.round()) > 2e-3  # not a whole number up to rounding
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(result[clear], exact[clear].astype(np.uint8))
    np.testing.assert_array_equal(blend(PICTURE, PICTURE, share), PICTURE)
