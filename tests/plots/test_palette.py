"""Colours of classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.plots import class_colour
from yolov6_ignite.plots.palette import ink_on


def test_the_first_20_classes_are_easy_to_tell_apart():
    colours = np.array([class_colour(i) for i in range(20)], dtype=float)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > 45
    assert np.linalg.norm(255 - colours, axis=1).min() > 90  # visible on white


def test_1000_classes_have_distinct_neighbours():
    colours = np.array([class_colour(i) for i in range(1000)], dtype=float)
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 40


@given(st.integers(0, 100_000))
def test_a_colour_is_fixed_and_in_range(index: int):
    colour = class_colour(index)
    assert colour == class_colour(index)
    assert all(isinstance(part, int) and 0 <= part <= 255 for part in colour)


@pytest.mark.parametrize(
    ("background", "ink"),
    [((255, 255, 255), (0, 0, 0)), ((0, 0, 0), (255, 255, 255)), ((24, 48, 140), (255, 255, 255))],
)
def test_ink_contrasts_with_its_background(background: tuple[int, int, int], ink: tuple[int, int, int]):
    assert ink_on(background) == ink
