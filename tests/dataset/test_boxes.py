from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data.boxes import to_normalised, to_pixels

share = st.floats(0.01, 0.99)


@given(st.lists(st.tuples(share, share, share, share), max_size=5), st.integers(10, 2000), st.integers(10, 2000))
def test_pixels_and_back(corners: list[tuple[float, ...]], width: int, height: int) -> None:
    rows = np.array(
        [(3, (a + b) / 2, (c + d) / 2, abs(a - b), abs(c - d)) for a, b, c, d in corners], dtype=np.float32
    ).reshape(-1, 5)
    pixels = to_pixels(rows, width, height, 0, 0)
    np.testing.assert_allclose(to_normalised(pixels, width, height), rows, atol=2e-4)


def test_offsets_and_clipping() -> None:
    rows = np.array([[1, 0.5, 0.5, 1.0, 0.5]], dtype=np.float32)
    pixels = to_pixels(rows, 40, 20, 30, -10)
    assert pixels.tolist() == [[1, 30, -5, 70, 5]]
    clipped = to_normalised(pixels, 50, 50)
    np.testing.assert_allclose(clipped, [[1, 0.8, 0.05, 0.4, 0.1]], atol=1e-4)
    assert (pixels == [[1, 30, -5, 70, 5]]).all()  # not changed
