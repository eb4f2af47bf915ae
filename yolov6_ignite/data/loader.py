"""Loaders: which batches, made by how many workers. The batches do not depend on the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, Literal

import cv2
import torch
from torch.utils.data import DataLoader

from yolov6_ignite.config import AugmentConfig, DataConfig
from yolov6_ignite.data.batch import Batch, collate
from yolov6_ignite.data.batch_shapes import aspect_order, rectangular_shapes
from yolov6_ignite.data.cache import RamCache
from yolov6_ignite.data.class_balance import image_repeat_factors
from yolov6_ignite.data.dataset import EvalDataset, TrainDataset
from yolov6_ignite.data.index import DatasetIndex
from yolov6_ignite.data.sampler import EpochBatchSampler, SampleKey
from yolov6_ignite.errors import ConfigError, DatasetError

__all__ = ["BatchLoader", "build_eval_loader", "build_train_loader"]

GRACE_S = 10  # that a worker lives on after SIGTERM


class BatchLoader(DataLoader[Any]):
    """A data loader that can end its workers, and that reports an unusable data set without their traceback."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
            return
        except DatasetError as error:
            message = str(error).rsplit(f"{DatasetError.__name__}: ", 1)[-1].strip()
            error.__traceback__ = None  # its frames hold the workers
        self.close()
        raise DatasetError(message)

    def close(self) -> None:
        """End persistent workers now; another iteration starts new ones.

        Left to the garbage collector, a loader that is part of a reference cycle waits 5 s for each worker.
        """
        self._iterator = None


def build_train_loader(
    index: DatasetIndex,
    data: DataConfig,
    augment: AugmentConfig,
    *,
    seed: int,
    strong: bool,
    rank: int = 0,
    world_size: int = 1,
    stride: int = 32,
    cache: RamCache | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Loader of augmented batches; its ``batch_sampler`` is an :class:`EpochBatchSampler`.

    Args:
        index: the training images.
        data: image size, (global) batch size, workers, rectangular batches, repeating of images with rare classes.
        augment: ranges and probabilities.
        seed: of orders and augmentations.
        strong: with mosaic and mixup; False after the cutoff.
        rank: which share of every batch.
        world_size: number of shares.
        stride: the model's largest.
        cache: images in memory.
        pin_memory: put batches into page-locked memory.

    Raises:
        ConfigError: rectangular batches with an image size of two different sides, or with repeated images.
    """
    order, shapes = None, None
    repeats = image_repeat_factors(index, data.repeat_factor) if data.repeat_factor else None
    if data.rect:
        if repeats is not None:
            raise ConfigError(
                f"data.repeat_factor: {data.repeat_factor} draws other images every epoch, but data.rect: true needs "
                "fixed batches; set data.repeat_factor: 0 or data.rect: false"
            )
        height, width = data.height_width
        if height != width:
            raise ConfigError(
                f"data.rect: true makes every batch's shape from the images; give one number as data.image_size, "
                f"not ({height}, {width}), or set data.rect: false"
            )
        order = aspect_order(index.sizes)
        shapes = rectangular_shapes(index.sizes[order], data.images_per_batch, height, stride, pad=0.0)
    dataset = TrainDataset(
        index,
        data.height_width,
        augment,
        seed,
        mosaic=strong,
        cache=cache,
        on_bad_image=data.on_bad_image,
        batch_size=data.images_per_batch,
        batch_shapes=shapes,
        repeats=repeats,
    )
    sampler = EpochBatchSampler(
        len(index),
        data.images_per_batch,
        seed,
        shuffle=not data.rect,
        order=order,
        repeats=repeats,
        rank=rank,
        world_size=world_size,
    )
    return _loader(dataset, sampler, len(sampler), data.workers, world_size, pin_memory)


def build_eval_loader(
    index: DatasetIndex,
    *,
    image_size: int | tuple[int, int],
    batch_size: int,
    stride: int = 32,
    rect: bool = True,
    pad: float = 0.5,
    shrink_px: int = 0,
    on_bad_image: Literal["skip", "error"] = "skip",
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Loader of letterboxed batches. The list of batches is a function of the data set and the batch size.

    Args:
        index: the images.
        image_size: longer side in pixels, or (height, width).
        batch_size: of one device.
        stride: the model's largest.
        rect: sort images by shape and make every batch as small as they allow; without effect on the shape where
            ``image_size`` has two different sides.
        pad: added to both sides of rectangular batches, in strides.
        shrink_px: subtracted from the size that images are resized to.
        on_bad_image: what to do when an image cannot be read any more.
        workers: processes.
        rank: takes batches ``rank``, ``rank + world_size``, ...; the last one where that is none, so that every rank
            evaluates (an image that comes twice counts once).
        world_size: number of ranks.
        pin_memory: put batches into page-locked memory.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if shrink_px >= min(size):
        raise ConfigError(f"eval.shrink_px: {shrink_px} leaves nothing of {size[0]} x {size[1]} px; use less")
    order, shapes = range(len(index)), None
    if rect and size[0] == size[1]:
        by_aspect = aspect_order(index.sizes)
        order = by_aspect.tolist()
        shapes = rectangular_shapes(index.sizes[by_aspect], batch_size, size[0], stride, pad)
    keys = [SampleKey(i, 0, position) for position, i in enumerate(order)]
    batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    share = batches[rank::world_size] or batches[-1:]
    dataset = EvalDataset(
        index, size, shrink_px=shrink_px, on_bad_image=on_bad_image, batch_size=batch_size, batch_shapes=shapes
    )
    return _loader(dataset, share, len(share), workers, world_size, pin_memory)


def _loader(
    dataset: TrainDataset | EvalDataset, batches: Any, num_batches: int, workers: int, world_size: int, pin_memory: bool
) -> BatchLoader:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    workers = min(workers, max(processors // ranks_here, 1), num_batches)  # more would only wait for each other
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # seeds workers, which draw nothing from it; the global one stays untouched
    )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C and schedulers signal the whole group: the run is to end its step and save, so its workers live on a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_S))
