"""Images that an exported file is tried on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from yolov6_ignite.data.discovery import find_images
from yolov6_ignite.data.image import BadImageError, read_image
from yolov6_ignite.data.letterbox import letterbox, letterbox_geometry
from yolov6_ignite.errors import ConfigError

__all__ = ["sample_batches"]

MOST_IMAGES = 16


def sample_batches(
    batch_sizes: list[int], image_sizes: list[tuple[int, int]], folder: Path | None = None
) -> list[Tensor]:
    """RGB images (batch, 3, height, width) in uint8: noise, or the first images of a folder.

    Args:
        batch_sizes: all of them occur, the last one most.
        image_sizes: (height, width) in pixels; the first for all batches, the others for one batch each.
        folder: images, repeated where they do not fill a batch.

    Raises:
        ConfigError: the folder has no image, or one that cannot be read.
        DatasetError: the folder cannot be read.
    """
    if folder is None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(batch, image_sizes[0]) for batch in batch_sizes]
        shapes += [(batch_sizes[-1], size) for size in image_sizes[1:]]
        return [torch.randint(256, (n, 3, *size), dtype=torch.uint8, generator=generator) for n, size in shapes]
    if not folder.is_dir():
        raise ConfigError(f"--images: {folder} is no folder")
    paths = sorted(find_images(folder))[:MOST_IMAGES]
    if not paths:
        raise ConfigError(f"--images: there is no image in {folder}")
    first = _letterboxed(paths, image_sizes[0])
    batches = [_cycle(first, 0, batch) for batch in batch_sizes]
    done = max(batch_sizes)
    while done < len(paths):
        batches.append(_cycle(first, done, batch_sizes[-1]))
        done += batch_sizes[-1]
    return batches + [_cycle(_letterboxed(paths, size), 0, batch_sizes[-1]) for size in image_sizes[1:]]


def _cycle(images: Tensor, start: int, count: int) -> Tensor:
    return images[torch.arange(start, start + count) % len(images)]


def _letterboxed(paths: list[str], size: tuple[int, int]) -> Tensor:
    images = []
    for path in paths:
        try:
            image = read_image(path)
        except BadImageError as error:
            raise ConfigError(f"--images: {path} {error}") from error
        boxed = letterbox(image, letterbox_geometry(image.shape[0], image.shape[1], size), size)
        images.append(cv2.cvtColor(boxed, cv2.COLOR_BGR2RGB))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
