"""Axes of charts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.plots.chart import Panel, blank, finish, nice_ticks


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.integers(1, 20))
def test_ticks_are_evenly_spaced_in_range_and_about_as_many_as_wanted(low: float, span: float, count: int):
    high = low + span
    ticks = np.array(nice_ticks(low, high, count))
    assert len(ticks) <= count + 1
    slack = 1e-6 * (abs(low) + high)
    if len(ticks):
        assert ticks[0] >= low - slack
        assert ticks[-1] <= high + slack
    if len(ticks) > 2:
        assert np.diff(ticks) == pytest.approx(np.diff(ticks)[0], rel=1e-3, abs=slack)


def test_ticks_are_round_numbers():
    assert nice_ticks(0.0, 1.0, 10) == pytest.approx([i / 10 for i in range(11)])
    assert nice_ticks(0.0, 399.0, 10) == [i * 50 for i in range(8)]
    assert nice_ticks(-0.5, 0.5, 10, smallest_step=1.0) == [0]
    assert nice_ticks(0.0, 3.0, 10, smallest_step=1.0) == [0, 1, 2, 3]


def test_a_curve_is_drawn_through_its_points_and_broken_where_it_is_not_finite():
    canvas = blank(100, 100)
    panel = Panel(canvas, 0, 0, 199, 199, (0.0, 4.0), (0.0, 1.0))
    panel.curve(np.arange(5.0), np.array([0.5, 0.5, np.nan, 0.5, 0.5]), (255, 0, 0), 3)
    inked = (canvas[:, :, 1] < 100).any(axis=0)
    assert inked[2:48].all()
    assert not inked[56:144].any()
    assert inked[152:197].all()
    assert (canvas[:96, :, 1] == 255).all()
    assert finish(canvas).shape == (100, 100, 3)


def test_a_lone_point_is_a_dot():
    canvas = blank(50, 50)
    Panel(canvas, 0, 0, 99, 99, (0.0, 2.0), (0.0, 1.0)).curve(np.array([1.0]), np.array([0.5]), (0, 0, 0), 4)
    assert (canvas[44:56, 44:56] == 0).mean() > 0.7
