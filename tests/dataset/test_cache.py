from __future__ import annotations

import logging
import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from yolov6_ignite.data import DatasetIndex, RamCache
from yolov6_ignite.data import cache as cache_module
from yolov6_ignite.data.image import read_image, resize_to_fit


def test_images_are_those_on_disk(index: DatasetIndex) -> None:
    cache = RamCache(index, (50, 70))
    for i, path in enumerate(index.paths):
        cached = cache.get(i)
        assert cached is not None
        np.testing.assert_array_equal(cached, resize_to_fit(read_image(str(path)), (50, 70)))


def test_what_does_not_fit_is_said_and_read_from_disk(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = sum(image.nbytes for image in (RamCache(index, (64, 64)).get(i) for i in range(7)) if image is not None)
    monkeypatch.setattr(cache_module, "available_memory_bytes", lambda: int(needed * 1.5))
    assert RamCache(index, (64, 64)).filled
    with caplog.at_level(logging.WARNING, "yolov6_ignite"):
        cache = RamCache(index, (64, 64), copies=2)
    assert not cache.filled
    assert cache.get(0) is None
    assert "training reads the files instead" in caplog.text


def test_an_image_that_cannot_be_read_is_left_to_the_reader(index: DatasetIndex) -> None:
    Path(str(index.paths[2])).write_bytes(b"")
    cache = RamCache(index, (64, 64))
    assert cache.get(2) is None
    assert cache.get(3) is not None


def test_workers_that_are_not_forked_share_the_memory(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    cache = RamCache(index, (64, 64))
    assert cache.filled
    assert cache._pixels.is_shared()
    sent = pickle.loads(ForkingPickler.dumps(cache))
    cache.get(0)[0, 0] = 99  # type: ignore[index]
    assert (sent.get(0)[0, 0] == 99).all()


def test_available_memory_is_plausible() -> None:
    available = cache_module.available_memory_bytes()
    assert available is None or 10**7 < available < 10**14
