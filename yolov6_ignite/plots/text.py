"""Text in OpenCV's default font: strokes of ASCII characters only up to OpenCV 4, outlines in OpenCV 5.

Their sizes differ, so layouts measure the text that they place.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from yolov6_ignite.plots.palette import RGB

__all__ = ["Font", "printable", "shorten"]


def printable(text: str) -> str:
    """The text with ``?`` for every character that is not printable ASCII."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def shorten(text: str, max_characters: int) -> str:
    """The text, or its beginning and ``...`` where it is longer than ``max_characters`` (> 3)."""
    return text if len(text) <= max_characters else text[: max_characters - 3] + "..."


@dataclass(frozen=True)
class Font:
    """The font at one size.

    Args:
        scale: 1 has capitals of about 21 px.
        thickness_px: of the strokes.
    """

    scale: float
    thickness_px: int = 1

    def size(self, text: str) -> tuple[int, int, int]:
        """Width, height above and depth below the base line, in pixels."""
        (width, height), depth = cv2.getTextSize(
            printable(text), cv2.FONT_HERSHEY_SIMPLEX, self.scale, self.thickness_px
        )
        return width, height, depth

    def fit(self, text: str, width_px: int) -> str:
        """The text, shortened until it is no wider than ``width_px``; empty if not even ``...`` fits."""
        if self.size(text)[0] <= width_px:
            return text
        for length in range(len(text) - 1, 3, -1):
            shorter = shorten(text, length)
            if self.size(shorter)[0] <= width_px:
                return shorter
        return "..." if self.size("...")[0] <= width_px else ""

    def draw(self, canvas: np.ndarray, text: str, x: int, y: int, colour: RGB) -> None:
        """Writes text into an image, its base line beginning at (x, y)."""
        cv2.putText(
            canvas,
            printable(text),
            (x, y),
            cv2.FONT_HERSHEY_SIMPLEX,
            self.scale,
            colour,
            self.thickness_px,
            cv2.LINE_AA,
        )
