"""Rectangular batches: images sorted by shape, each batch as small as they allow (specification, training 12.9)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.data.sampler import epoch_batches

__all__ = ["aspect_order", "rectangular_shapes"]


def aspect_order(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Images from the narrowest to the widest; equal ones stay in order.

    Args:
        sizes: (n, 2) height and width.
    """
    return np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable")


def rectangular_shapes(
    sizes: NDArray[np.int32], batch_size: int, image_size: int, stride: int, pad: float
) -> list[tuple[int, int]]:
    """Shape (height, width) of every batch, multiples of the stride.

    Args:
        sizes: (n, 2) height and width of the images in the order of :func:`aspect_order`.
        batch_size: images in a (global) batch.
        image_size: the longer side that images are loaded at, in pixels.
        stride: the model's largest.
        pad: added to both sides, in strides.
    """
    aspects = sizes[:, 1] / sizes[:, 0]
    shapes = []
    for batch in range(epoch_batches(len(sizes), batch_size)):
        part = aspects[batch * batch_size : (batch + 1) * batch_size]
        height, width = 1.0, 1.0
        if part.max() < 1:
            width = float(part.max())
        elif part.min() > 1:
            height = 1 / float(part.min())
        shapes.append(
            (
                math.ceil(height * image_size / stride + pad) * stride,
                math.ceil(width * image_size / stride + pad) * stride,
            )
        )
    return shapes
