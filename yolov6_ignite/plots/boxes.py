"""Labelled boxes on an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolov6_ignite.plots.palette import RGB, class_colour, ink_on
from yolov6_ignite.plots.text import Font

__all__ = ["Rectangle", "class_name", "draw_labelled_boxes", "draw_tag", "tag_place"]

_PADDING_PX = 3


@dataclass(frozen=True)
class Rectangle:
    """Pixels x1 <= x < x2, y1 <= y < y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    def overlaps(self, other: Rectangle) -> bool:
        """Whether the two share a pixel."""
        return self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2


def class_name(names: Sequence[str], index: int) -> str:
    """Name of a class, or its number where it has no name."""
    return names[index] if 0 <= index < len(names) else str(index)


def tag_place(text: str, x: int, y: int, font: Font) -> Rectangle:
    """What a text with its background covers when its top left corner is (x, y)."""
    width, height, depth = font.size(text)
    return Rectangle(x, y, x + width + 2 * _PADDING_PX, y + height + depth // 2 + 2 * _PADDING_PX)


def draw_tag(canvas: np.ndarray, text: str, place: Rectangle, font: Font, background: RGB) -> None:
    """Writes text on a filled rectangle, which :func:`tag_place` gave."""
    cv2.rectangle(canvas, (place.x1, place.y1), (place.x2 - 1, place.y2 - 1), background, cv2.FILLED)
    base_line = place.y1 + _PADDING_PX + font.size(text)[1]
    font.draw(canvas, text, place.x1 + _PADDING_PX, base_line, ink_on(background))


def draw_labelled_boxes(
    canvas: np.ndarray,
    boxes_xyxy: np.ndarray,
    classes: np.ndarray,
    labels: Sequence[str],
    *,
    font: Font,
    line_width_px: int,
    taken: Iterable[Rectangle] = (),
) -> None:
    """Draws boxes and then their labels into an image; of boxes that lie on each other, the first is on top.

    A label goes above its box, or inside or below it where another label or the image's edge is in the way. What
    reaches out of the image is cut off; a box without a pixel inside is left out with its label.

    Args:
        canvas: uint8 (h, w, 3) RGB, written to.
        boxes_xyxy: (n, 4) in pixels.
        classes: (n,) class indices.
        labels: n texts.
        font: of the labels.
        line_width_px: of the boxes.
        taken: places that labels keep away from.
    """
    height, width = canvas.shape[:2]
    # Far corners would overflow OpenCV's fixed-point coordinates; this near, an outer edge is still out of sight.
    outside = 2 * line_width_px
    corners = np.rint(np.clip(boxes_xyxy, -outside, np.array([width, height] * 2) + outside)).astype(int)
    boxes = [Rectangle(*map(int, row)) for row in corners]
    image = Rectangle(0, 0, width, height)
    seen = [i for i, box in enumerate(boxes) if box.overlaps(image)]
    for i in reversed(seen):
        box = boxes[i]
        cv2.rectangle(canvas, (box.x1, box.y1), (box.x2, box.y2), class_colour(int(classes[i])), line_width_px)
    placed = list(taken)
    for i in seen:
        text = font.fit(labels[i], width - 2 * _PADDING_PX)
        place = _label_place(boxes[i], tag_place(text, 0, 0, font), image, placed, line_width_px // 2)
        placed.append(place)
        draw_tag(canvas, text, place, font, class_colour(int(classes[i])))


def _label_place(
    box: Rectangle, label: Rectangle, image: Rectangle, placed: list[Rectangle], edge_px: int
) -> Rectangle:
    """The first place inside the image for a label of a size that no other label has, or the first at all."""
    width, height = label.x2, label.y2
    left, right = box.x1 - edge_px, box.x2 + edge_px + 1 - width
    above, below = box.y1 - edge_px - height, box.y2 + edge_px + 1
    inside_top, inside_bottom = max(box.y1, 0), min(box.y2, image.y2) - height
    corners = [(left, above), (left, inside_top), (left, below), (right, above), (right, below), (left, inside_bottom)]
    places = []
    for x, y in corners:
        x = max(0, min(x, image.x2 - width))
        place = Rectangle(x, y, x + width, y + height)
        if y >= 0 and place.y2 <= image.y2:
            if not any(place.overlaps(other) for other in placed):
                return place
            places.append(place)
    return places[0] if places else Rectangle(0, 0, width, height)
