"""The training objective on validation images (``eval.loss``), from the raw predictions of their detections."""

from __future__ import annotations

import functools
from typing import cast

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.data import Batch
from yolov6_ignite.losses import build_plain_loss
from yolov6_ignite.models import DetectorOutput

__all__ = ["ValidationLoss"]


class ValidationLoss:
    """Means of the loss terms over a data set, weighted by images; the same for any number of ranks.

    It is the loss of the branch that detects, whatever else is trained with it: no anchor-aided branch and no teacher,
    and after distilling N and S that of their direct distances, without `dfl`. Objects are always assigned by task
    alignment and classes weigh alike, so that all epochs and runs compare. A batch's normaliser is its own sum of
    target scores; batches are a fixed list, so it does not matter who evaluates them.

    Args:
        config: of the network's training.
        num_classes: number of classes.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        self._config = config
        self._num_classes = num_classes
        self._loss = functools.cache(self._build)
        self._batches: dict[int, tuple[int, dict[str, Tensor]]] = {}

    def reset(self) -> None:
        """Begins another evaluation."""
        self._batches = {}

    def update(self, output: DetectorOutput, batch: Batch) -> None:
        """Adds a batch; nothing waits for the device."""
        loss = self._loss(output.distances.shape[-1] // 4 - 1, output.logits.device)
        height, width = batch.images.shape[-2:]
        _, terms = loss(output, batch.targets, epoch=0, max_epochs=1, image_size=(height, width))
        # By its first image: a rank that has no batch of its own repeats another's.
        self._batches[int(batch.indices[0])] = len(batch.images), dict(terms)

    def compute(self) -> dict[str, float]:
        """Means by term; every rank calls it and gets the same, to the last bit for any number of them."""
        names = list(next(iter(self._batches.values()))[1])
        values = torch.stack([torch.stack([terms[name] for name in names]) for _, terms in self._batches.values()])
        rows = zip(self._batches, (images for images, _ in self._batches.values()), values.tolist(), strict=True)
        merged = {first: (images, row) for first, images, row in rows}
        if idist.get_world_size() > 1:
            shares = cast("list[dict[int, tuple[int, list[float]]]]", idist.all_gather(merged))
            merged = {first: entry for share in shares for first, entry in share.items()}
        images = sum(count for count, _ in merged.values())
        return {
            name: sum(merged[first][0] * merged[first][1][column] for first in sorted(merged)) / images
            for column, name in enumerate(names)
        }

    def _build(self, reg_max: int, device: torch.device) -> nn.Module:
        return build_plain_loss(self._config, self._num_classes, reg_max=reg_max).to(device)
