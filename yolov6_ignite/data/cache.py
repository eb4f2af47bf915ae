"""Decoded and resized training images in memory, shared by all loader workers of a process."""

from __future__ import annotations

import logging
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from yolov6_ignite.data.image import BadImageError, Image, read_image, resize_to_fit, size_to_fit
from yolov6_ignite.data.index import DatasetIndex

__all__ = ["RamCache", "available_memory_bytes"]

logger = logging.getLogger("yolov6_ignite")

USABLE_FRACTION = 0.9  # of the available memory; the rest is for batches and the system


class RamCache:
    """All images of an index, exactly as they would be loaded from disk.

    Built before the loader's workers start. If the images do not fit into memory, that is logged and the cache stays
    empty: training then reads files.

    Args:
        index: the data set.
        image_size: (height, width) that images are resized to fit in.
        copies: processes of this machine that hold a cache: its ranks.

    Attributes:
        image_size: as given.
        filled: whether images are held.
    """

    def __init__(self, index: DatasetIndex, image_size: tuple[int, int], *, copies: int = 1) -> None:
        self.image_size = image_size
        self._sizes = np.array([size_to_fit(h, w, image_size) for h, w in index.sizes.tolist()], dtype=np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._sizes.prod(axis=1) * 3)])
        self._present = np.zeros(len(index), dtype=np.bool_)
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self.filled = self._fits(copies)
        if self.filled:
            self._pixels = torch.empty(int(self._offsets[-1]), dtype=torch.uint8)
            if not _workers_inherit_memory():
                self._pixels.share_memory_()
            self._fill(index)

    def get(self, i: int) -> Image | None:
        """Image ``i`` as BGR uint8 (height, width, 3), a view not to be written to; None if it is not held."""
        return self._view(i) if self._present[i] else None

    def _view(self, i: int) -> Image:
        flat = self._pixels.numpy()[self._offsets[i] : self._offsets[i + 1]]
        return flat.reshape(*self._sizes[i].tolist(), 3)

    def _fits(self, copies: int) -> bool:
        needed = int(self._offsets[-1]) * copies
        available = available_memory_bytes()
        if not _workers_inherit_memory() and Path("/dev/shm").is_dir():
            status = os.statvfs("/dev/shm")
            shared = status.f_bavail * status.f_frsize
            available = shared if available is None else min(available, shared)
        if available is None or needed <= available * USABLE_FRACTION:
            return True
        logger.warning(
            "data.cache: ram needs %.1f GB for %d images in %d process(es), but %.1f GB are available; "
            "training reads the files instead",
            needed / 1e9, len(self._sizes), copies, available / 1e9,
        )  # fmt: skip
        return False

    def _fill(self, index: DatasetIndex) -> None:
        def load(i: int) -> None:
            try:
                image = resize_to_fit(read_image(str(index.paths[i])), self.image_size)
            except BadImageError:
                return  # whoever asks for it reads the file and treats the error by its policy
            if image.shape[:2] == tuple(self._sizes[i]):
                self._view(i)[:] = image
                self._present[i] = True

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for _ in pool.map(load, range(len(index))):
                pass
        logger.info("%d images are held in memory (%.2f GB)", int(self._present.sum()), self._offsets[-1] / 1e9)


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping, as the system and the control group see it; None if unknown."""
    limits = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        maximum, current = _lines(group / limit), _lines(group / used)
        if maximum and current and maximum[0].isdigit():
            limits.append(int(maximum[0]) - int(current[0]))
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _workers_inherit_memory() -> bool:
    """Forked workers see this process's memory; others must be given shared memory."""
    return multiprocessing.get_start_method() == "fork"
