from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data.batch_shapes import aspect_order, rectangular_shapes


def test_reference_numbers() -> None:
    sizes = np.array([[300, 400], [400, 300], [300, 300]])
    order = aspect_order(sizes)
    assert order.tolist() == [1, 2, 0]
    assert rectangular_shapes(sizes[order], 1, 256, 32, 0.5) == [(288, 224), (288, 288), (224, 288)]
    assert rectangular_shapes(np.array([[480, 640]]), 4, 640, 32, 0.5) == [(512, 672)]
    assert rectangular_shapes(np.array([[64, 64]]), 4, 640, 32, 0.5) == [(672, 672)]
    assert rectangular_shapes(np.array([[64, 64]]), 4, 640, 64, 0.0) == [(640, 640)]


@given(
    st.lists(st.tuples(st.integers(10, 900), st.integers(10, 900)), min_size=1, max_size=20),
    st.integers(1, 6),
    st.sampled_from([32, 64]),
    st.sampled_from([0.0, 0.5]),
)
def test_every_image_fits_into_its_batch(sides: list[tuple[int, int]], batch: int, stride: int, pad: float) -> None:
    sizes = np.array(sides)
    sizes = sizes[aspect_order(sizes)]
    shapes = rectangular_shapes(sizes, batch, 320, stride, pad)
    assert len(shapes) == -(-len(sizes) // batch)
    for i, (h, w) in enumerate(sizes.tolist()):
        shape = shapes[i // batch]
        ratio = 320 / max(h, w)
        assert int(h * ratio) <= shape[0]
        assert int(w * ratio) <= shape[1]
        assert shape[0] % stride == shape[1] % stride == 0
