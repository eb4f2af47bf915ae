"""Data sets: finding and checking files, augmentation, batches that depend on (seed, epoch, step) only."""

from __future__ import annotations

from yolov6_ignite.data.batch import Batch
from yolov6_ignite.data.cache import RamCache
from yolov6_ignite.data.dataset_file import DatasetFile, load_dataset_file
from yolov6_ignite.data.index import DatasetIndex, build_index, index_split
from yolov6_ignite.data.loader import BatchLoader, build_eval_loader, build_train_loader
from yolov6_ignite.data.sampler import EpochBatchSampler, SampleKey

__all__ = [
    "Batch",
    "BatchLoader",
    "DatasetFile",
    "DatasetIndex",
    "EpochBatchSampler",
    "RamCache",
    "SampleKey",
    "build_eval_loader",
    "build_index",
    "build_train_loader",
    "index_split",
    "load_dataset_file",
]
