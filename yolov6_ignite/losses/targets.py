"""Padding a batch's objects to one number an image, on the host (specification, training 11.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolov6_ignite.assigners import GroundTruth
from yolov6_ignite.errors import DatasetError

__all__ = ["pad_targets"]

INSIDE_PX = 1e-9


def pad_targets(
    targets: Tensor, batch_size: int, num_classes: int, image_size: tuple[int, int], device: torch.device
) -> GroundTruth:
    """Groups objects by image and sends them to the device, all in one copy that nothing waits for.

    Args:
        targets: (n, 6) on the host: image in the batch, class, centre x, centre y, width, height; the last four
            normalised to the image.
        batch_size: images in the batch.
        num_classes: number of classes that the network knows.
        image_size: (height, width) in pixels.
        device: where the losses are computed.

    Returns:
        Ground truth with at least one row an image, in the order of `targets`.

    Raises:
        ValueError: `targets` are on a device (counting them would wait for it), or name an image outside the batch.
        DatasetError: a class is outside 0..num_classes - 1.
    """
    if targets.device.type != "cpu":
        raise ValueError(f"targets are on {targets.device}: pass them on the host")
    rows = targets.detach().double().numpy()
    image, label = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    if len(rows) and not (image.min() >= 0 and image.max() < batch_size):
        raise ValueError(f"targets name images {image.min()} to {image.max()}: the batch has 0 to {batch_size - 1}")
    if len(rows) and not (label.min() >= 0 and label.max() < num_classes):
        bad = label.max() if label.max() >= num_classes else label.min()
        raise DatasetError(
            f"a label has class {bad}, but the network has the classes 0 to {num_classes - 1}: "
            "correct the label files or the data set's nc and names"
        )
    count = np.bincount(image, minlength=batch_size)
    order = np.argsort(image, kind="stable")
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)

    height, width = image_size
    size = rows[order, 4:6] * (width, height)
    top_left = rows[order, 2:4] * (width, height) - 0.5 * size
    bottom_right = top_left + size
    packed = np.zeros((batch_size, max(1, count.max()), 6), np.float32)
    packed[image[order], slot, 0] = label[order]
    # Rounded outwards, fp32 corners compare with an anchor point as those in float64 do: it is inside if it is more
    # than INSIDE_PX away from each side.
    packed[image[order], slot, 1:3] = _rounded(top_left + INSIDE_PX, -np.inf)
    packed[image[order], slot, 3:5] = _rounded(bottom_right - INSIDE_PX, np.inf)
    packed[image[order], slot, 5] = (top_left + bottom_right).sum(1) > 0

    host = torch.from_numpy(packed)
    if device.type == "cuda":
        host = host.pin_memory()  # a copy from other memory makes the host wait
    on_device = host.to(device, non_blocking=True)
    return GroundTruth(on_device[..., 0].long(), on_device[..., 1:5], on_device[..., 5] > 0)


def _rounded(values: np.ndarray, towards: float) -> np.ndarray:
    """The nearest fp32 numbers that do not lie on the other side of the values."""
    nearest = values.astype(np.float32)
    beyond = nearest > values if towards < 0 else nearest < values
    return np.where(beyond, np.nextafter(nearest, np.float32(towards)), nearest)
