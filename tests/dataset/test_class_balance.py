from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.config import DataConfig
from yolov6_ignite.data import DatasetIndex
from yolov6_ignite.data.class_balance import (
    class_repeat_factors,
    class_weights,
    draw_repeats,
    image_repeat_factors,
    log_class_balance,
)
from yolov6_ignite.data.index import IndexCounts

NAMES = ["a", "b", "c", "nowhere"]
LABELS = st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=30)


def index_of(images: list[list[int]]) -> DatasetIndex:
    """An index of images with these classes; sizes and boxes do not matter."""
    labels = np.array([label for image in images for label in image], dtype=np.float32)
    boxes = np.concatenate([labels[:, None], np.full((len(labels), 4), 0.5, np.float32)], axis=1)
    counts = IndexCounts(len(images), len(boxes), 0, 0, 0, 0)
    offsets = np.cumsum([0, *map(len, images)])
    paths = np.array([f"{i}.png" for i in range(len(images))])
    return DatasetIndex(paths, np.full((len(images), 2), 64, np.int32), boxes, offsets, "", (), counts)


# 100 images: class 0 in all of them, twice; class 1 in 25; class 2 in one, four times.
IMAGES = [[0, 0] + [1] * (i < 25) + [2] * 4 * (i == 99) for i in range(100)]


def test_inverse_frequency() -> None:
    weights = class_weights(index_of(IMAGES), 4, "inverse")
    assert weights is not None
    n = 200 + 25 + 4
    np.testing.assert_allclose(weights, [n / (3 * 200), n / (3 * 25), n / (3 * 4), 1], rtol=1e-6)


def test_square_root_is_half_of_the_way() -> None:
    index = index_of(IMAGES)
    full, half = class_weights(index, 4, "inverse"), class_weights(index, 4, "sqrt_inverse")
    assert full is not None
    assert half is not None
    np.testing.assert_allclose(half[:3] / half[0], (full[:3] / full[0]) ** 0.5, rtol=1e-5)
    assert half[3] == 1


@given(images=LABELS, kind=st.sampled_from(["inverse", "sqrt_inverse"]))
def test_the_mean_weight_of_an_object_is_one(images: list[list[int]], kind: str) -> None:
    index = index_of(images)
    weights = class_weights(index, 6, kind)  # type: ignore[arg-type]
    assert weights is not None
    assert weights.shape == (6,)
    label = index.boxes[:, 0].astype(int)
    if len(label):
        assert weights[label].mean() == pytest.approx(1, rel=1e-5)
    assert (weights[[c for c in range(6) if c not in label]] == 1).all()
    objects = np.bincount(label, minlength=6)
    there = [c for c in range(6) if objects[c]]
    by_objects = sorted(there, key=lambda c: objects[c])
    assert all(weights[x] >= weights[y] - 1e-6 for x, y in itertools.pairwise(by_objects))


def test_no_weights() -> None:
    assert class_weights(index_of(IMAGES), 4, "none") is None


def test_repeat_factors_are_those_of_lvis() -> None:
    index = index_of(IMAGES)
    np.testing.assert_allclose(class_repeat_factors(index, 4, 0.5), [1, 2**0.5, 50**0.5, 1])
    factors = image_repeat_factors(index, 0.5)
    np.testing.assert_allclose(factors, [2**0.5] * 25 + [1] * 74 + [50**0.5])
    assert (image_repeat_factors(index, 0.001) == 1).all()
    assert image_repeat_factors(index_of([[], [1], [1], [1]]), 0.9).tolist() == pytest.approx(
        [1] + [1.2**0.5] * 3, 1e-6
    )
    assert image_repeat_factors(index_of([[], []]), 1.0).tolist() == [1, 1]


@given(
    factors=st.lists(st.floats(1, 6), min_size=1, max_size=60),
    seed=st.integers(0, 5),
)
def test_an_epoch_has_a_fixed_length_and_everything_at_least_as_often_as_is_sure(
    factors: list[float], seed: int
) -> None:
    drawn = draw_repeats(np.array(factors), np.random.default_rng(seed))
    assert len(drawn) == round(float(np.sum(factors)))
    times = np.bincount(drawn, minlength=len(factors))
    assert (times >= np.floor(factors)).all()
    assert (times <= np.floor(factors) + 2).all()
    assert (times[np.array(factors) % 1 == 0] == np.array(factors)[np.array(factors) % 1 == 0]).all()


def test_fractions_are_chances() -> None:
    factors = np.array([1, 1.25, 1.5, 2.75, 3, 1.5, 1, 1])
    rng = np.random.default_rng(0)
    times = np.array([np.bincount(draw_repeats(factors, rng), minlength=8) for _ in range(4000)])
    np.testing.assert_allclose(times.mean(axis=0), factors, atol=0.04)
    assert (times.max(axis=0) - times.min(axis=0)).tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
    together = ((times[:, 2] == 2) & (times[:, 5] == 2)).mean()
    assert 0.05 < together < 0.45  # neither excludes nor implies the other


def test_objects_count_as_often_as_they_are_shown() -> None:
    index = index_of(IMAGES)
    weights = class_weights(index, len(NAMES), "inverse", 0.5)
    assert weights is not None
    shown = np.repeat(image_repeat_factors(index, 0.5), np.diff(index.offsets))
    objects = np.bincount(index.boxes[:, 0].astype(int), weights=shown, minlength=len(NAMES))
    np.testing.assert_allclose((weights.numpy() * objects)[:3], objects.sum() / 3, rtol=1e-5)


def test_the_table(caplog: pytest.LogCaptureFixture) -> None:
    data = DataConfig(class_weights="inverse", repeat_factor=0.5)
    with caplog.at_level("INFO", "yolov6_ignite"):
        log_class_balance(index_of(IMAGES), NAMES, data)
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[0] == "balance of the classes; an epoch shows 100 images 116 times"
    assert [line.split() for line in lines[1:]] == [
        ["class", "objects", "images", "weight", "repeat"],
        ["a", "200", "100", "0.424", "1.000"],
        ["b", "25", "25", "2.795", "1.414"],
        ["c", "4", "1", "3.494", "7.071"],
        ["nowhere", "0", "0", "1.000", "1.000"],
    ]
    caplog.clear()
    log_class_balance(index_of(IMAGES), NAMES, DataConfig())
    assert not caplog.records


def test_a_real_index(index: DatasetIndex) -> None:
    counts = np.bincount(index.boxes[:, 0].astype(int))
    weights = class_weights(index, 3, "inverse")
    assert weights is not None
    np.testing.assert_allclose(weights.numpy() * counts, counts.sum() / 3, rtol=1e-5)
    only_first = dataclasses.replace(index, boxes=index.boxes[:0], offsets=index.offsets * 0)
    assert class_weights(only_first, 3, "inverse").tolist() == [1, 1, 1]  # type: ignore[union-attr]
