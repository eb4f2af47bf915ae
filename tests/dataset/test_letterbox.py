from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data.letterbox import letterbox, letterbox_geometry


@pytest.mark.parametrize(
    ("target", "scale_up", "ratio", "left_top"),
    [((64, 64), True, 1.06666667, (0, 10)), ((64, 64), False, 1, (2, 12)), ((50, 61), True, 1.01666667, (0, 4))],
)
def test_reference_numbers(target: tuple[int, int], scale_up: bool, ratio: float, left_top: tuple[int, int]) -> None:
    place = letterbox_geometry(40, 60, target, scale_up=scale_up)
    assert place.ratio == pytest.approx(ratio)
    assert (place.left, place.top) == left_top


@given(
    h=st.integers(1, 3000), w=st.integers(1, 3000), th=st.integers(32, 1300), tw=st.integers(32, 1300), up=st.booleans()
)
def test_the_image_fits_and_is_centred(h: int, w: int, th: int, tw: int, up: bool) -> None:
    place = letterbox_geometry(h, w, (th, tw), scale_up=up)
    bottom, right = th - place.top - place.height, tw - place.left - place.width
    assert place.top >= 0
    assert place.left >= 0
    assert bottom - place.top in {0, 1}
    assert right - place.left in {0, 1}
    if up:
        assert place.height == th or place.width == tw
    else:
        assert place.height <= h
        assert place.width <= w
    # A point goes in and comes back to where it was, up to the rounding of the size.
    assert (w / 2 * place.ratio) == pytest.approx(place.width / 2, abs=0.5)


def test_drawing() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    same = letterbox(image, letterbox_geometry(40, 60, (64, 64), scale_up=False), (64, 64))
    np.testing.assert_array_equal(same[12:52, 2:62], image)
    assert (same[:12] == 114).all()
    assert (same[52:] == 114).all()
    assert (same[:, :2] == 114).all()
    larger = letterbox(np.full((40, 60, 3), 7, np.uint8), letterbox_geometry(40, 60, (64, 64)), (64, 64))
    assert (larger[10:53] == 7).all()
    assert (larger[:10] == 114).all()
    assert (larger[53:] == 114).all()
