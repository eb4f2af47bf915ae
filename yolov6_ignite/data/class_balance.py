"""Rare classes: weights of the classification loss, and images that are shown more than once an epoch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov6_ignite.config import DataConfig
from yolov6_ignite.data.index import DatasetIndex

__all__ = ["class_repeat_factors", "class_weights", "draw_repeats", "image_repeat_factors", "log_class_balance"]

logger = logging.getLogger("yolov6_ignite")

Kind = Literal["none", "inverse", "sqrt_inverse"]


def class_weights(index: DatasetIndex, num_classes: int, kind: Kind, repeat_threshold: float = 0.0) -> Tensor | None:
    """Weights of the classes, 1 in the mean over the objects, so that the loss stays as large as it was.

    Args:
        index: the training images.
        num_classes: number of classes.
        kind: ``inverse`` makes the objects of every class weigh the same together, each 1 / frequency;
            ``sqrt_inverse`` goes half of that way.
        repeat_threshold: ``data.repeat_factor``; objects count as often as their images are shown.

    Returns:
        float32 (num_classes,), 1 for classes without an object; None for ``none``.
    """
    if kind == "none":
        return None
    shown = image_repeat_factors(index, repeat_threshold)
    label = index.boxes[:, 0].astype(np.int64)
    objects = np.bincount(label, weights=np.repeat(shown, np.diff(index.offsets)), minlength=num_classes)
    weights = np.ones(num_classes)
    there = objects > 0
    if there.any():
        weights[there] = objects[there] ** (-1.0 if kind == "inverse" else -0.5)
        weights[there] *= objects.sum() / (weights * objects).sum()
    return torch.from_numpy(weights.astype(np.float32))


def class_repeat_factors(index: DatasetIndex, num_classes: int, threshold: float) -> NDArray[np.float64]:
    """How often an image of each class is to be shown: max(1, sqrt(threshold / frequency)) (arXiv:1908.03195, B.1).

    Args:
        index: the training images.
        num_classes: number of classes.
        threshold: part of the images that a class has to be in to be shown once; 0 shows all once.

    Returns:
        (num_classes,) factors; 1 for a class that is in no image.
    """
    frequency = _images(index, num_classes) / len(index)
    with np.errstate(divide="ignore"):
        factors = np.sqrt(threshold / frequency, where=frequency > 0, out=np.ones(num_classes))
    return np.maximum(factors, 1.0)


def image_repeat_factors(index: DatasetIndex, threshold: float) -> NDArray[np.float64]:
    """(n,) times that each image is to be shown in an epoch: the largest factor of its classes, 1 for background."""
    result = np.ones(len(index))
    if len(index.boxes):
        label = index.boxes[:, 0].astype(np.int64)
        factors = class_repeat_factors(index, int(label.max()) + 1, threshold)
        np.maximum.at(result, np.repeat(np.arange(len(index)), np.diff(index.offsets)), factors[label])
    return result


def draw_repeats(factors: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """An epoch's images, each as often as its factor says, in ascending order.

    The whole part of a factor is sure, its fraction a chance. Chances are drawn together (systematic sampling in a
    random order), so that there are always ``round(factors.sum())`` images: an epoch's length is fixed.

    Args:
        factors: (n,) of at least 1.
        rng: the epoch's generator.
    """
    sure = np.floor(factors).astype(np.int64)
    extra = round(float(factors.sum())) - int(sure.sum())
    order = rng.permutation(len(factors))
    reached = np.cumsum((factors - sure)[order])
    if extra:
        # Marks at equal distances along the chances laid end to end; each image has those that lie within its own.
        marks = np.floor(reached / reached[-1] * extra + rng.random()).astype(np.int64)
        marks[-1] = extra
        sure[order] += np.diff(np.minimum(marks, extra), prepend=0)
    return np.repeat(np.arange(len(factors)), sure)


def log_class_balance(index: DatasetIndex, names: Sequence[str], data: DataConfig) -> None:
    """Tells what ``data.class_weights`` and ``data.repeat_factor`` do to each class; nothing where both are off."""
    weights = class_weights(index, len(names), data.class_weights, data.repeat_factor)
    if weights is None and not data.repeat_factor:
        return
    factors = class_repeat_factors(index, len(names), data.repeat_factor)
    rows = zip(
        names,
        _objects(index, len(names)).tolist(),
        _images(index, len(names)).tolist(),
        [1.0] * len(names) if weights is None else weights.tolist(),
        factors.tolist(),
        strict=True,
    )
    width = max(len(name) for name in ("class", *names))
    lines = [f"{'class':<{width}}  objects   images   weight   repeat"]
    lines += [f"{name:<{width}} {n:>8} {m:>8} {weight:>8.3f} {repeat:>8.3f}" for name, n, m, weight, repeat in rows]
    shown = round(float(image_repeat_factors(index, data.repeat_factor).sum()))
    logger.info("balance of the classes; an epoch shows %d images %d times\n%s", len(index), shown, "\n".join(lines))


def _objects(index: DatasetIndex, num_classes: int) -> NDArray[np.int64]:
    """Objects of every class."""
    return np.bincount(index.boxes[:, 0].astype(np.int64), minlength=num_classes)


def _images(index: DatasetIndex, num_classes: int) -> NDArray[np.int64]:
    """Images that have an object of every class."""
    image = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    pairs = np.unique(image * num_classes + index.boxes[:, 0].astype(np.int64))
    return np.bincount(pairs % num_classes, minlength=num_classes)
