"""What loaders yield."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["Batch", "Sample", "collate"]


class Sample(NamedTuple):
    """One image and its labels.

    Attributes:
        image: uint8 (3, h, w), RGB.
        rows: float32 (n, 5) class, cx, cy, w, h; normalised to the image.
        path: of the image file; of a mosaic, the first image's.
        dataset_index: in the data set's index.
        letterbox: original height and width, gains of height and width, top and left padding in pixels; zeros where
            the image was augmented.
    """

    image: Tensor
    rows: NDArray[np.float32]
    path: str
    dataset_index: int
    letterbox: tuple[float, float, float, float, float, float]


class Batch(NamedTuple):
    """A batch, on the host.

    Attributes:
        images: uint8 (b, 3, h, w), RGB.
        targets: float32 (n, 6) image in the batch, class, cx, cy, w, h; normalised.
        paths: b image files.
        indices: int64 (b,) in the data set's index.
        letterbox: float32 (b, 6) original height and width, gains of height and width, top and left padding in pixels:
            ``x_original = (x - left) / gain_w`` (specification, training 13.4). Zeros in training.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    indices: Tensor
    letterbox: Tensor


def collate(samples: list[Sample]) -> Batch:
    """Join samples whose images have one size."""
    lengths = [len(sample.rows) for sample in samples]
    targets = np.empty((sum(lengths), 6), dtype=np.float32)
    targets[:, 0] = np.repeat(np.arange(len(samples)), lengths)
    np.concatenate([sample.rows for sample in samples], out=targets[:, 1:])
    return Batch(
        images=default_collate([sample.image for sample in samples]),  # in a worker, straight into shared memory
        targets=torch.from_numpy(targets),
        paths=[sample.path for sample in samples],
        indices=torch.tensor([sample.dataset_index for sample in samples], dtype=torch.int64),
        letterbox=torch.tensor([sample.letterbox for sample in samples], dtype=torch.float32),
    )
