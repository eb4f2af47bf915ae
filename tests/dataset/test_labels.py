from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data.labels import parse_labels


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2", "4 fields, expected 5: class cx cy w h"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 fields"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.1", "7 fields, expected 5: class cx cy w h; a polygon?"),
        ("0 0.5 0.5 x 0.2", "'x' is not a number"),
        ("0 nan 0.5 0.2 0.2", "'nan' is not a number"),
        ("inf 0.5 0.5 0.2 0.2", "'inf' is not a number"),
        ("1.5 0.5 0.5 0.2 0.2", "class 1.5 is not a whole number"),
        ("3 0.5 0.5 0.2 0.2", "class 3 is not one of the 3 classes 0 to 2"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 is not"),
        ("0 1.001 0.5 0.002 0.2", "1.001 is outside 0 to 1"),
        ("0 0.5 -0.1 0.2 0.2", "-0.1 is outside"),
        ("0 320 240 20 20", "320 is outside"),
        ("0 0.5 0.5 0 0.2", "the box has no area"),
        ("0 0.5 0.5 0.2 -0", "the box has no area"),
        ("0 0.05 0.5 0.2 0.2", "the box leaves the image by 10 px"),
        ("0 0.5 1.0 0.1 0.000001", "the box has no area inside the image"),
    ],
)
def test_a_bad_line_is_left_out_and_the_others_stay(line: str, reason: str) -> None:
    labels = parse_labels(f"1 0.5 0.5 0.2 0.2\n \t\n{line}\n2 0.25 0.25 0.5 0.5\n", 3, height=100, width=200)
    assert len(labels.problems) == 1
    number, message = labels.problems[0]
    assert number == 3
    assert reason in message
    np.testing.assert_array_equal(labels.rows[:, 0], [1, 2])


def test_good_lines_are_kept_as_written() -> None:
    labels = parse_labels("2 0.5 0.25 1 0.5\r\n1.0\t1e-1 0.2 0.1  0.1 \n\n", 3, 480, 640)
    np.testing.assert_array_equal(labels.rows, np.float32([[2, 0.5, 0.25, 1, 0.5], [1, 0.1, 0.2, 0.1, 0.1]]))
    assert labels.rows.dtype == np.float32
    assert (labels.problems, labels.duplicates) == ([], 0)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_has_no_boxes(text: str) -> None:
    labels = parse_labels(text, 1, 10, 10)
    assert labels.rows.shape == (0, 5)
    assert labels.problems == []


def test_duplicates_are_counted_and_order_is_kept() -> None:
    labels = parse_labels("1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.50 0.5 0.2 0.2\n0 0.4 0.5 0.2 0.2\n", 2, 50, 50)
    assert labels.rows[:, :2].tolist() == np.float32([[1, 0.5], [0, 0.5], [0, 0.4]]).tolist()
    assert labels.duplicates == 1


def test_less_than_a_pixel_outside_is_clipped() -> None:
    labels = parse_labels("0 0.099 0.5 0.2 1\n", 1, height=100, width=200)  # 0.2 px beyond the left edge
    np.testing.assert_allclose(labels.rows, [[0, 0.0995, 0.5, 0.199, 1]], atol=1e-7)


@given(
    size=st.tuples(st.integers(10, 4000), st.integers(10, 4000)),
    corners=st.lists(st.integers(0, 2**16), min_size=4, max_size=4),
)
def test_boxes_of_whole_pixels_survive_six_decimals(size: tuple[int, int], corners: list[int]) -> None:
    height, width = size
    x1, x2 = sorted(corner % (width + 1) for corner in corners[:2])
    y1, y2 = sorted(corner % (height + 1) for corner in corners[2:])
    if x1 == x2 or y1 == y2:
        return
    line = (
        f"0 {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
    )
    labels = parse_labels(line, 1, height, width)
    assert labels.problems == []
    _, cx, cy, w, h = labels.rows[0].astype(float)
    np.testing.assert_allclose(
        [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height],
        [x1, y1, x2, y2],
        atol=0.01,
    )
    assert cx - w / 2 >= -1e-6
    assert cy + h / 2 <= 1 + 1e-6


@given(st.text())
def test_any_text_gives_rows_inside_the_image_or_problems(text: str) -> None:
    labels = parse_labels(text, 3, 100, 100)
    assert np.isfinite(labels.rows).all()
    assert all(1 <= number <= len(text.splitlines()) for number, _ in labels.problems)
