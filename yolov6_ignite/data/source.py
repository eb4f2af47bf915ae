"""Images of an index at the size they are loaded at, from memory or from disk."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from yolov6_ignite.data.cache import RamCache
from yolov6_ignite.data.image import BadImageError, Image, read_image, resize_to_fit, size_to_fit
from yolov6_ignite.data.index import DatasetIndex
from yolov6_ignite.errors import DatasetError

__all__ = ["ImageSource"]

logger = logging.getLogger("yolov6_ignite")


class ImageSource:
    """Images and labels by index.

    Args:
        index: the data set.
        fit: (height, width) that images are resized to fit in.
        area: average when reducing (evaluation) instead of linear interpolation (training).
        cache: images resized to ``fit`` with linear interpolation, or None.
        on_bad_image: what to do when an image that was good in the index cannot be read any more.
        repeats: (n,) times that each image is shown in an epoch; by default all are shown equally often.
    """

    def __init__(
        self,
        index: DatasetIndex,
        fit: tuple[int, int],
        *,
        area: bool = False,
        cache: RamCache | None = None,
        on_bad_image: Literal["skip", "error"] = "skip",
        repeats: NDArray[np.float64] | None = None,
    ) -> None:
        if cache is not None and (area or cache.image_size != fit):
            raise ValueError(f"the cache holds training images for {cache.image_size}, not for {fit}")
        self._index = index
        self._fit = fit
        self._area = area
        self._cache = cache
        self._on_bad_image = on_bad_image
        self._shown_up_to = None if repeats is None else np.cumsum(repeats)
        self._unreadable = torch.zeros(len(index), dtype=torch.uint8).share_memory_()  # one for all workers

    def __len__(self) -> int:
        return len(self._index)

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read, by any worker, since the index was made."""
        return int(self._unreadable.sum())

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of :meth:`image`, without reading it."""
        height, width = self._index.sizes[i].tolist()
        return size_to_fit(height, width, self._fit)

    def labels(self, i: int) -> NDArray[np.float32]:
        """Normalised rows (class, cx, cy, w, h); a view."""
        return self._index.labels(i)

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Images for a sample to be mixed with, as often as an epoch shows them, with replacement."""
        if self._shown_up_to is None:
            drawn = rng.integers(len(self), size=count)
        else:
            drawn = np.searchsorted(self._shown_up_to, rng.random(count) * self._shown_up_to[-1], side="right")
        return [min(i, len(self) - 1) for i in drawn.tolist()]  # a product can be rounded up to the very end

    def image(self, i: int) -> Image | None:
        """The image as BGR uint8 (height, width, 3), not to be written to; None if it cannot be read any more.

        Raises:
            DatasetError: it cannot be read any more and ``on_bad_image`` is ``error``.
        """
        if self._cache is not None:
            cached = self._cache.get(i)
            if cached is not None:
                return cached
        path = str(self._index.paths[i])
        try:
            image = read_image(path)
            height, width = self._index.sizes[i].tolist()
            if image.shape[:2] != (height, width):
                raise BadImageError(f"was {width} x {height} px, is {image.shape[1]} x {image.shape[0]}")
        except BadImageError as bad:
            message = f"{path}: {bad}; it was good when the data set was checked"
            if self._on_bad_image == "error":
                raise DatasetError(f"{message}. Restore it and resume, or set data.on_bad_image: skip.") from None
            if not self._unreadable[i]:
                self._unreadable[i] = 1
                logger.warning("%s. Grey without boxes is used instead.", message)
            return None
        return resize_to_fit(image, self._fit, area=self._area)
