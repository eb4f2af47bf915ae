"""Images on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yolov6_ignite.checkpoint import write_atomically
from yolov6_ignite.errors import ConfigError

__all__ = ["save_image"]

_SUFFIXES = (".png", ".jpg", ".jpeg")


def save_image(path: Path, rgb: np.ndarray) -> None:
    """Writes an image atomically, in the format that the suffix names.

    Args:
        path: ends with ``.png``, ``.jpg`` or ``.jpeg``.
        rgb: uint8 (h, w, 3), RGB.

    Raises:
        ConfigError: another suffix, or the file system refuses; ``path`` is as before.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: images are written as {', '.join(_SUFFIXES)}; change the file's suffix")
    _, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
