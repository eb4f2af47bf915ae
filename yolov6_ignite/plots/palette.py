"""One fixed colour for every class."""

from __future__ import annotations

import colorsys

__all__ = ["class_colour", "ink_on"]

RGB = tuple[int, int, int]

# Neighbours differ in hue and lightness; all are visible as thin lines on white and on photographs.
_COLOURS: tuple[RGB, ...] = (
    (226, 52, 62),
    (29, 116, 212),
    (38, 156, 68),
    (244, 144, 20),
    (138, 66, 196),
    (0, 176, 188),
    (228, 70, 168),
    (138, 86, 60),
    (196, 176, 0),
    (96, 106, 126),
    (120, 200, 40),
    (24, 48, 140),
    (255, 138, 138),
    (0, 102, 84),
    (180, 140, 240),
    (128, 0, 50),
    (100, 186, 250),
    (102, 102, 0),
    (70, 218, 160),
    (176, 66, 0),
)
_GOLDEN_RATIO = 0.618033988749895


def class_colour(index: int) -> RGB:
    """Colour of a class, the same in every image and every run.

    The first 20 are chosen by hand; further hues follow the golden ratio, which keeps neighbours apart.

    Args:
        index: class index, >= 0.

    Returns:
        Red, green, blue in 0..255.
    """
    if index < len(_COLOURS):
        return _COLOURS[index]
    saturation, value = ((0.85, 0.9), (0.6, 0.7), (0.95, 0.6))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(background: RGB) -> RGB:
    """Black or white, whichever is easier to read on a colour (luma of ITU-R BT.601)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
