"""The data of a run: its indexes, its training loader before and after the cutoff, and its images in memory."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from torch import Tensor

from yolov6_ignite.config import Config
from yolov6_ignite.data import (
    BatchLoader,
    DatasetFile,
    DatasetIndex,
    RamCache,
    build_train_loader,
    index_split,
    load_dataset_file,
)
from yolov6_ignite.data.class_balance import class_weights, log_class_balance
from yolov6_ignite.distributed import from_rank_zero
from yolov6_ignite.errors import ConfigError

__all__ = ["TrainingData", "require_dataset"]


def require_dataset(config: Config) -> None:
    """Verifies that a data set is named.

    Raises:
        ConfigError: ``data.dataset`` is not set.
    """
    if config.data.dataset is None:
        raise ConfigError("data.dataset is not set: give a data set file, for example data.dataset=mine.yaml")


class TrainingData:
    """Training and validation images of the configured data set, indexed on rank 0 for all ranks.

    Args:
        config: the run's configuration; ``data.dataset`` is set.
        pin_memory: put batches into page-locked memory.
        own_loader: takes the place of the configured training images; batches of its share for this rank, or None.
        own_val: whether the validation images are not the configured ones.

    Attributes:
        dataset: the data set file.
        train_index: the training images; None with a loader of one's own.
        val_index: the validation images; None where they are not the configured ones.
        loader: the training loader in use.

    Raises:
        DatasetError: the data set cannot be used.
    """

    def __init__(self, config: Config, *, pin_memory: bool, own_loader: Any = None, own_val: bool = False) -> None:
        self._config = config
        self._pin_memory = pin_memory
        name = str(config.data.dataset)
        splits = [split for split, own in (("train", own_loader is not None), ("val", own_val)) if not own]
        self.dataset: DatasetFile = from_rank_zero(lambda: load_dataset_file(name, splits=splits))
        self.train_index: DatasetIndex | None
        self.val_index: DatasetIndex | None
        self.train_index, self.val_index = from_rank_zero(
            lambda: (
                index_split(self.dataset.train, self.names, config.data) if "train" in splits else None,
                index_split(self.dataset.val, self.names, config.data) if "val" in splits else None,
            )
        )
        if self.train_index is None:
            self._cache = None
            self.loader = own_loader
            return
        if idist.get_rank() == 0:
            log_class_balance(self.train_index, self.names, config.data)
        self._cache = None
        if config.data.cache == "ram":
            copies = idist.get_nproc_per_node()
            self._cache = RamCache(self.train_index, config.data.height_width, copies=copies)
        self.loader = self._make_loader(strong=True)

    @property
    def names(self) -> list[str]:
        """Class names."""
        return self.dataset.names

    @property
    def class_weights(self) -> Tensor | None:
        """(number of classes,) for the classification loss (``data.class_weights``); None: all alike."""
        data = self._config.data
        if self.train_index is None:
            return None
        return class_weights(self.train_index, len(self.names), data.class_weights, data.repeat_factor)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What tells another state of the files from this one."""
        indexes = {"train": self.train_index, "val": self.val_index}
        return {split: "own" if index is None else index.fingerprint for split, index in indexes.items()}

    def cut_off_augmentation(self) -> BatchLoader:
        """Goes on without mosaic and mixup, on the same indexes."""
        self.close()
        self.loader = self._make_loader(strong=False)
        return self.loader

    def close(self) -> None:
        """Ends the loader's workers."""
        if hasattr(self.loader, "close"):
            self.loader.close()

    def _make_loader(self, *, strong: bool) -> BatchLoader:
        config = self._config
        assert self.train_index is not None
        return build_train_loader(
            self.train_index,
            config.data,
            config.augment,
            seed=config.train.seed,
            strong=strong,
            rank=idist.get_rank(),
            world_size=idist.get_world_size(),
            stride=max(config.model.head.strides),
            cache=self._cache,
            pin_memory=self._pin_memory,
        )
