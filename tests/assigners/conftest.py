"""Inputs that the tests of both assigners use."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov6_ignite.assigners import GroundTruth
from yolov6_ignite.models.anchors import anchor_points, distances_to_boxes


class Scene(NamedTuple):
    """Predictions and objects of a batch."""

    logits: Tensor
    boxes: Tensor
    points: Tensor
    strides: Tensor
    level_sizes: list[int]
    truth: GroundTruth


def _scene(logits: Tensor, distances: Tensor, sizes: list[tuple[int, int]], truth: GroundTruth) -> Scene:
    points, strides = anchor_points(sizes, (8, 16, 32))
    boxes = distances_to_boxes(distances * strides, points)
    return Scene(logits, boxes, points, strides, [h * w for h, w in sizes], truth)


@pytest.fixture(scope="session")
def published_scene() -> Scene:
    """The inputs of the published assignments (specification, training 22.1)."""

    def numbers(k: int, *shape: int) -> Tensor:
        j = np.arange(1, np.prod(shape) + 1)
        t = 43758.5453 * np.sin(12.9898 * j + 78.233 * k)
        return torch.from_numpy((t - np.floor(t)).astype(np.float32).reshape(shape))

    boxes = torch.zeros(2, 3, 4)
    boxes[0] = torch.tensor([[20, 19.2, 76, 83.2], [40, 35.2, 136, 92.8], [120, 17.92, 136, 33.28]])
    boxes[1, 0] = torch.tensor([8, 6.4, 152, 121.6])
    truth = GroundTruth(torch.tensor([[1, 2, 0], [0, 0, 0]]), boxes, torch.tensor([[True] * 3, [True, False, False]]))
    logits = torch.logit(0.9 * numbers(1, 2, 420, 3) + 0.05)
    return _scene(logits, 4 * numbers(2, 2, 420, 4), [(16, 20), (8, 10), (4, 5)], truth)


def random_scene(seed: int, counts: list[int], classes: int = 4) -> Scene:
    """A batch with so many objects an image; predicted boxes hold their points, and no two numbers are equal."""
    random = np.random.default_rng(seed)
    height, width = 96, 128
    sizes = [(height // s, width // s) for s in (8, 16, 32)]
    anchors = sum(h * w for h, w in sizes)
    batch, objects = len(counts), max(1, *counts)
    boxes = np.zeros((batch, objects, 4), np.float32)
    labels = np.zeros((batch, objects), np.int64)
    for i, count in enumerate(counts):
        side = random.uniform(0.05, 0.7, (count, 2)) * (width, height)
        corner = random.uniform(0, 1, (count, 2)) * ((width, height) - side)
        boxes[i, :count] = np.concatenate((corner, corner + side), 1)
        labels[i, :count] = random.integers(classes, size=count)
    valid = np.arange(objects) < np.array(counts)[:, None]
    truth = GroundTruth(*(torch.from_numpy(x) for x in (labels, boxes, valid)))
    logits = torch.from_numpy(random.normal(-2, 1, (batch, anchors, classes)).astype(np.float32))
    distances = torch.from_numpy(random.uniform(0.4, 3, (batch, anchors, 4)).astype(np.float32))
    return _scene(logits, distances, sizes, truth)


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    return random_scene
