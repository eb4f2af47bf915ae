"""Mosaics against the reference's numbers and against filling and warping a canvas, as the specification says it."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data import DatasetIndex
from yolov6_ignite.data.affine import AffineDraw, affine_matrix, transform_boxes
from yolov6_ignite.data.mosaic import MosaicDraw, draw_mosaic, render_mosaic
from yolov6_ignite.data.source import ImageSource

TARGET = (64, 96)


class Pictures:
    """Images and labels in memory, and which of them were asked for."""

    def __init__(self, images: list[np.ndarray | None], sizes: list[tuple[int, int]], labels: list[np.ndarray]) -> None:
        self._images, self._sizes, self._labels = images, sizes, labels
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._images)

    def size(self, i: int) -> tuple[int, int]:
        return self._sizes[i]

    def labels(self, i: int) -> np.ndarray:
        return self._labels[i]

    def image(self, i: int) -> np.ndarray | None:
        self.read.append(i)
        return self._images[i]


def pictures(sizes: list[tuple[int, int]], seed: int = 0) -> Pictures:
    """Smooth images with a few boxes."""
    rng = np.random.default_rng(seed)
    images = [
        cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        for h, w in sizes
    ]
    labels = []
    for i in range(len(sizes)):
        extent = rng.uniform(0.05, 0.5, (3, 2))
        centre = extent / 2 + rng.random((3, 2)) * (1 - extent)
        labels.append(np.column_stack([np.full(3, i), centre, extent]).astype(np.float32))
    return Pictures(images, sizes, labels)


def by_canvas(source: Pictures, draw: MosaicDraw, target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The table of the specification, row by row; also which pixels lie away from the tiles' edges."""
    dst_h, dst_w = 2 * target[0], 2 * target[1]
    canvas = np.full((dst_h, dst_w, 3), 114, dtype=np.uint8)
    owner = np.zeros((dst_h, dst_w), dtype=np.float32)
    xc, yc = draw.centre_x, draw.centre_y
    boxes = []
    for position, i in enumerate(draw.indices):
        h, w = source.size(i)
        x1, x2 = (max(xc - w, 0), xc) if position % 2 == 0 else (xc, min(xc + w, dst_w))
        y1, y2 = (max(yc - h, 0), yc) if position < 2 else (yc, min(yc + h, dst_h))
        sx1 = w - (x2 - x1) if position % 2 == 0 else 0
        sy1 = h - (y2 - y1) if position < 2 else 0
        canvas[y1:y2, x1:x2] = source._images[i][sy1 : sy1 + y2 - y1, sx1 : sx1 + x2 - x1]
        owner[y1:y2, x1:x2] = 100 * (position + 1)
        for label, cx, cy, bw, bh in source.labels(i):
            corners = np.float32([w * (cx - bw / 2), h * (cy - bh / 2), w * (cx + bw / 2), h * (cy + bh / 2)])
            boxes.append([label, *(corners + np.float32([x1 - sx1, y1 - sy1] * 2)).clip(0, [dst_w, dst_h] * 2)])
    matrix = affine_matrix(draw.affine, (dst_h, dst_w), target)
    image = cv2.warpAffine(canvas, matrix[:2], target[::-1], flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))
    owners = cv2.warpAffine(owner, matrix[:2], target[::-1], flags=cv2.INTER_LINEAR, borderValue=0)
    inner = cv2.erode(owners, np.ones((5, 5))) == cv2.dilate(owners, np.ones((5, 5)))
    rows = np.array(boxes, dtype=np.float32)
    return image, transform_boxes(rows, matrix, draw.affine.scale, target), inner


def test_reference_numbers() -> None:
    generator = random.Random(3)
    centre_y, centre_x = (int(generator.uniform(32, 96)) for _ in range(2))
    assert (centre_y, centre_x) == (47, 66)
    affine = [(0, 0), (0.5, 1.5), (0, 0), (0, 0), (0.4, 0.6), (0.4, 0.6)]
    draw = MosaicDraw((0, 1, 2, 3), 47, 66, AffineDraw(*(generator.uniform(*limits) for limits in affine)))
    source = Pictures(
        [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 20, 30, 40)],
        [(48, 64)] * 4,
        [np.array([[i % 3, 0.5, 0.5, 0.4, 0.6]], dtype=np.float32) for i in range(4)],
    )
    image, boxes = render_mosaic(source, draw, (64, 64))  # type: ignore[arg-type]
    expected = [
        [1, 49.1716, 0, 64, 6.9553],
        [2, 0, 28.1506, 6.7811, 59.9435],
        [0, 49.1716, 28.1506, 64, 59.9435],
    ]
    np.testing.assert_allclose(boxes, expected, atol=1e-4)
    assert int(image.sum()) == pytest.approx(370752, rel=0.01)  # but for the seams


sizes = st.lists(st.tuples(st.integers(20, 96), st.integers(20, 96)), min_size=4, max_size=4)
unit = st.floats(0, 1)


@given(
    sizes,
    st.tuples(unit, unit),
    st.builds(AffineDraw, st.floats(-0.0, 0), st.floats(0.5, 1.5), st.just(0), st.just(0), unit, unit),
)
def test_without_rotation_it_is_what_the_canvas_gives(
    shapes: list[tuple[int, int]], centre: tuple[float, float], affine: AffineDraw
) -> None:
    draw = MosaicDraw((2, 0, 3, 1), 32 + int(63 * centre[0]), 48 + int(95 * centre[1]), affine)
    source = pictures(shapes)
    image, boxes = render_mosaic(source, draw, TARGET)  # type: ignore[arg-type]
    expected, expected_boxes, inner = by_canvas(source, draw, TARGET)
    np.testing.assert_allclose(boxes, expected_boxes, atol=1e-4)
    difference = np.abs(image.astype(int) - expected)[inner]
    assert difference.size == 0 or (difference.max() <= 4 and difference.mean() < 0.5)


@given(
    sizes,
    st.tuples(unit, unit),
    st.builds(AffineDraw, st.floats(-90, 90), st.floats(0.5, 1.5), st.floats(-9, 9), st.floats(-9, 9), unit, unit),
)
def test_with_rotation_it_is_what_the_canvas_gives(
    shapes: list[tuple[int, int]], centre: tuple[float, float], affine: AffineDraw
) -> None:
    draw = MosaicDraw((2, 0, 3, 1), 32 + int(63 * centre[0]), 48 + int(95 * centre[1]), affine)
    source = pictures(shapes)
    image, boxes = render_mosaic(source, draw, TARGET)  # type: ignore[arg-type]
    expected, expected_boxes, inner = by_canvas(source, draw, TARGET)
    np.testing.assert_allclose(boxes, expected_boxes, atol=1e-4)
    difference = np.abs(image.astype(int) - expected)[inner]
    assert difference.size == 0 or difference.max() <= 4


def test_tiles_meet_without_a_gap() -> None:
    source = Pictures([np.full((200, 200, 3), 7, np.uint8)] * 4, [(200, 200)] * 4, [np.zeros((0, 5), np.float32)] * 4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        affine = AffineDraw(0, rng.uniform(0.61, 1.5), 0, 0, *rng.uniform(0.4, 0.6, 2))  # the canvas fills the target
        draw = MosaicDraw((0, 1, 2, 3), 64, 96, affine)
        image, _ = render_mosaic(source, draw, TARGET)  # type: ignore[arg-type]
        assert (image == 7).all()


def test_an_image_that_is_not_seen_is_not_read() -> None:
    source = pictures([(60, 90)] * 4)
    draw = MosaicDraw((0, 1, 2, 3), 32, 48, AffineDraw(0, 2.0, 0, 0, 0.5, 0.5))
    _, boxes = render_mosaic(source, draw, TARGET)  # type: ignore[arg-type]
    assert source.read == [3]
    assert set(boxes[:, 0]) <= {3}


def test_an_image_that_cannot_be_read_has_no_boxes() -> None:
    source = pictures([(60, 90)] * 4)
    source._images[2] = None
    draw = MosaicDraw((0, 1, 2, 3), 64, 96, AffineDraw(0, 0.5, 0, 0, 0.5, 0.5))
    image, boxes = render_mosaic(source, draw, TARGET)  # type: ignore[arg-type]
    assert set(boxes[:, 0]) == {0, 1, 3}
    assert (image[40:60, 5:40] == 114).all()


def test_draws_have_the_specified_distribution(index: DatasetIndex) -> None:
    rng = np.random.default_rng(0)
    source = ImageSource(index, (64, 96))
    draws = [draw_mosaic(rng, 5, source, (64, 96), AugmentConfig()) for _ in range(3000)]
    assert all(5 in draw.indices and len(draw.indices) == 4 for draw in draws)
    places = np.bincount([draw.indices.index(5) for draw in draws if draw.indices.count(5) == 1], minlength=4)
    np.testing.assert_allclose(places / places.sum(), 0.25, atol=0.04)
    centres = np.array([(draw.centre_y, draw.centre_x) for draw in draws])
    assert (centres.min(axis=0) == (32, 48)).all()
    assert (centres.max(axis=0) == (95, 143)).all()
    np.testing.assert_allclose(centres.mean(axis=0), (63.5, 95.5), atol=2)
    others = np.bincount([i for draw in draws for i in draw.indices], minlength=7)
    assert others[[0, 6]].min() > 1100  # three draws of seven, with replacement
