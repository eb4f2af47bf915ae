"""Text that the font can draw and that fits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.plots.text import Font, printable, shorten


def test_characters_that_the_font_lacks_become_question_marks():
    assert printable("Thrombozyt ä\n红") == "Thrombozyt ???"


@given(st.text(max_size=60), st.integers(4, 60))
def test_shorten_keeps_the_beginning_within_the_limit(text: str, limit: int):
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (len(text) > limit and short.endswith("...") and text.startswith(short[:-3]))


@given(st.text(max_size=60), st.integers(0, 400))
def test_fit_keeps_within_the_width(text: str, width_px: int):
    font = Font(0.5)
    fitted = font.fit(text, width_px)
    assert fitted == "" or font.size(fitted)[0] <= width_px


def test_size_covers_what_is_drawn():
    font = Font(0.6)
    width, height, depth = font.size("Agy WBC 0.87")
    canvas = np.zeros((80, 240, 3), dtype=np.uint8)
    font.draw(canvas, "Agy WBC 0.87", 20, 40, (255, 255, 255))
    rows, columns = np.nonzero(canvas.max(axis=2) > 128)
    assert rows.min() >= 40 - height - 1
    assert rows.max() <= 40 + depth + 1
    assert columns.min() >= 18
    assert columns.max() <= 20 + width + 1
