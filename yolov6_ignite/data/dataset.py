"""Samples by key: augmented for training, letterboxed for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from yolov6_ignite.config import AugmentConfig
from yolov6_ignite.data.augment import augmented_sample, to_planes
from yolov6_ignite.data.batch import Sample
from yolov6_ignite.data.boxes import to_normalised, to_pixels
from yolov6_ignite.data.cache import RamCache
from yolov6_ignite.data.index import DatasetIndex
from yolov6_ignite.data.letterbox import PAD_VALUE, letterbox, letterbox_geometry
from yolov6_ignite.data.random_stream import sample_generator
from yolov6_ignite.data.sampler import SampleKey
from yolov6_ignite.data.source import ImageSource

__all__ = ["EvalDataset", "TrainDataset"]

Shape = tuple[int, int]


class TrainDataset(Dataset[Sample]):
    """Augmented samples; each is a function of its key.

    Args:
        index: images and labels.
        image_size: (height, width) that images are loaded to fit in, and the samples' shape.
        augment: ranges and probabilities.
        seed: of the samples' generators.
        mosaic: mosaic and mixup, by their probabilities; False after the cutoff.
        cache: images in memory.
        on_bad_image: what to do when an image cannot be read any more.
        batch_size: of global batches; needed with ``batch_shapes``.
        batch_shapes: shape of every global batch, instead of ``image_size``.
        repeats: (n,) times that each image is shown in an epoch: mosaic and mixup draw their images accordingly.
    """

    def __init__(
        self,
        index: DatasetIndex,
        image_size: Shape,
        augment: AugmentConfig,
        seed: int,
        *,
        mosaic: bool,
        cache: RamCache | None = None,
        on_bad_image: Literal["skip", "error"] = "skip",
        batch_size: int = 1,
        batch_shapes: Sequence[Shape] | None = None,
        repeats: NDArray[np.float64] | None = None,
    ) -> None:
        self.source = ImageSource(index, image_size, cache=cache, on_bad_image=on_bad_image, repeats=repeats)
        self._paths = index.paths
        self._image_size = image_size
        self._augment = augment
        self._seed = seed
        self._mosaic = mosaic
        self._batch_size = batch_size
        self._batch_shapes = batch_shapes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Sample:
        target = self._image_size
        if self._batch_shapes is not None:
            target = self._batch_shapes[key.position // self._batch_size]
        rng = sample_generator(self._seed, key.epoch, key.position)
        image, rows = augmented_sample(self.source, key.index, rng, target, self._augment, strong=self._mosaic)
        return Sample(torch.from_numpy(image), rows, str(self._paths[key.index]), key.index, (0, 0, 0, 0, 0, 0))


class EvalDataset(Dataset[Sample]):
    """Letterboxed samples.

    Args:
        index: images and labels.
        image_size: (height, width) that images are resized to fit in, and the samples' shape.
        shrink_px: images are resized to fit in so much less, on both axes.
        on_bad_image: what to do when an image cannot be read any more.
        batch_size: of batches; needed with ``batch_shapes``.
        batch_shapes: shape of every batch, instead of ``image_size``.
    """

    def __init__(
        self,
        index: DatasetIndex,
        image_size: Shape,
        *,
        shrink_px: int = 0,
        on_bad_image: Literal["skip", "error"] = "skip",
        batch_size: int = 1,
        batch_shapes: Sequence[Shape] | None = None,
    ) -> None:
        fit = (image_size[0] - shrink_px, image_size[1] - shrink_px)
        self.source = ImageSource(index, fit, area=True, on_bad_image=on_bad_image)
        self._index = index
        self._image_size = image_size
        self._batch_size = batch_size
        self._batch_shapes = batch_shapes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Sample:
        target = self._image_size
        if self._batch_shapes is not None:
            target = self._batch_shapes[key.position // self._batch_size]
        i = key.index
        image, rows = self.source.image(i), self.source.labels(i)
        height, width = self._index.sizes[i].tolist()
        h, w = self.source.size(i)
        if image is None:
            image, rows = np.full((h, w, 3), PAD_VALUE, dtype=np.uint8), rows[:0]
        place = letterbox_geometry(h, w, target, scale_up=False)
        rgb = cv2.cvtColor(letterbox(image, place, target), cv2.COLOR_BGR2RGB)
        boxes = to_pixels(rows, place.ratio * w, place.ratio * h, place.left, place.top)
        gains = (place.ratio * h / height, place.ratio * w / width)
        return Sample(
            torch.from_numpy(to_planes(rgb)),  # type: ignore[arg-type]
            to_normalised(boxes, target[1], target[0]),
            str(self._index.paths[i]),
            i,
            (height, width, *gains, place.top, place.left),
        )
