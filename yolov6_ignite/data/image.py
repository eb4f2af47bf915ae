"""Reading an image file into pixels, the same way for checking, training and evaluation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["BadImageError", "Image", "jpeg_is_complete", "read_image", "resize_to_fit", "size_to_fit"]

Image = NDArray[np.uint8]


class BadImageError(Exception):
    """The file is not an image that can be used; the message says why."""


def read_image(path: str) -> Image:
    """Read an image as BGR.

    Files are read by Python and decoded by OpenCV, which cannot open every path on every system. Its decoder applies
    the EXIF orientation, repeats grey, drops alpha and reduces 16 bits to 8.

    Returns:
        uint8 (height, width, 3).

    Raises:
        BadImageError: missing, empty, cut off or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from None
    if not data:
        raise BadImageError("the file is empty")
    if data.startswith(b"\xff\xd8") and not jpeg_is_complete(data):
        raise BadImageError("the JPEG is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise BadImageError("cannot be decoded: cut off, damaged or not an image")
    return image  # type: ignore[return-value]


def jpeg_is_complete(data: bytes) -> bool:
    """Whether the end marker of a JPEG's main image is there; some decoders fill a cut-off image with grey.

    Headers are skipped by their lengths because an embedded thumbnail has an end marker too. In image data a marker
    cannot occur by accident: the format escapes it.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker == 0xDA:  # start of the image data
            break
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.find(b"\xff\xd9", position) >= 0


def size_to_fit(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """Size (height, width) that an image is loaded at: as large as the target holds (specification, training 12.7).

    The result is truncated, as in the reference, and at least one pixel.
    """
    ratio = min(target[0] / height, target[1] / width)
    if ratio == 1:
        return height, width
    return max(int(height * ratio), 1), max(int(width * ratio), 1)


def resize_to_fit(image: Image, target: tuple[int, int], *, area: bool = False) -> Image:
    """Resize an image to :func:`size_to_fit`.

    Args:
        image: (height, width, 3).
        target: (height, width) to fit in.
        area: average when reducing, as in evaluation; otherwise interpolate linearly, as in training.
    """
    old: tuple[int, int] = image.shape[:2]
    new = size_to_fit(old[0], old[1], target)
    if new == old:
        return image
    smaller = new[0] < old[0] or new[1] < old[1]
    interpolation = cv2.INTER_AREA if area and smaller else cv2.INTER_LINEAR
    return cv2.resize(image, new[::-1], interpolation=interpolation)  # type: ignore[return-value]
