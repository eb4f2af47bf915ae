from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov6_ignite.config import AugmentConfig, DataConfig
from yolov6_ignite.data import (
    Batch,
    DatasetIndex,
    EpochBatchSampler,
    RamCache,
    build_eval_loader,
    build_index,
    build_train_loader,
)
from yolov6_ignite.data.class_balance import image_repeat_factors
from yolov6_ignite.data.loader import BatchLoader
from yolov6_ignite.errors import ConfigError, DatasetError

STRONG = AugmentConfig(degrees=10, shear=2, mixup=0.5, flipud=0.5)


def train_loader(index: DatasetIndex, *, strong: bool = True, **keys: Any) -> BatchLoader:
    options = {name: keys.pop(name) for name in {"rank", "world_size", "stride", "cache"} & keys.keys()}
    augment = keys.pop("augment", STRONG)
    data = DataConfig(**{"image_size": 64, "batch_size": 3, "workers": 0, **keys})
    return build_train_loader(index, data, augment, seed=5, strong=strong, **options)


def epoch(loader: BatchLoader, number: int = 0, start_step: int = 0) -> list[Batch]:
    assert isinstance(loader.batch_sampler, EpochBatchSampler)
    loader.batch_sampler.set_epoch(number, start_step)
    return list(loader)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.paths == b.paths
        for name in ("images", "targets", "indices", "letterbox"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_training_batches(index: DatasetIndex) -> None:
    loader = train_loader(index)
    batches = epoch(loader)
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert len(loader) == 3
    for batch in batches:
        assert isinstance(batch, Batch)
        assert (batch.images.dtype, batch.images.shape[1:]) == (torch.uint8, (3, 64, 64))
        assert batch.images.is_contiguous()
        assert (batch.targets.dtype, batch.targets.shape[1]) == (torch.float32, 6)
        assert batch.letterbox.shape == (len(batch.images), 6)
        assert batch.paths == [str(index.paths[i]) for i in batch.indices]
        assert set(batch.targets[:, 0].tolist()) <= set(range(len(batch.images)))
        corners = torch.cat(
            [batch.targets[:, 2:4] - batch.targets[:, 4:] / 2, batch.targets[:, 2:4] + batch.targets[:, 4:] / 2]
        )
        assert (corners > -1e-5).all()
        assert (corners < 1 + 1e-5).all()
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(7))


@pytest.mark.parametrize("strong", [True, False])
def test_workers_do_not_change_the_batches(index: DatasetIndex, strong: bool) -> None:
    alone = train_loader(index, strong=strong)
    helped = train_loader(index, strong=strong, workers=2)
    assert helped.persistent_workers
    for number in (0, 1):
        assert_same(epoch(alone, number), epoch(helped, number))
    assert_same(epoch(alone, 1)[2:], epoch(helped, 1, start_step=2))


def test_epochs_seeds_and_the_global_generators(index: DatasetIndex) -> None:
    loader = train_loader(index)
    first = epoch(loader, 0)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    second = epoch(loader, 1)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    assert not torch.equal(first[0].images, second[0].images)
    assert_same(first, epoch(train_loader(index), 0))


@pytest.mark.parametrize("rect", [False, True])
def test_ranks_share_the_batches_of_one_device(index: DatasetIndex, rect: bool) -> None:
    whole = epoch(train_loader(index, batch_size=4, rect=rect))
    shares = [epoch(train_loader(index, batch_size=4, rect=rect, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, left, right in zip(whole, *shares, strict=True):
        joined = torch.cat([left.images, right.images])[: len(batch.images)]
        assert torch.equal(batch.images, joined)
        assert batch.paths == (left.paths + right.paths)[: len(batch.paths)]


def test_rectangular_training(index: DatasetIndex) -> None:
    loader = train_loader(index, rect=True, batch_size=2, image_size=96)
    first, second = epoch(loader, 0), epoch(loader, 1)
    shapes = [tuple(batch.images.shape[2:]) for batch in first]
    assert shapes == [(96, 96), (96, 96), (96, 96), (64, 96)]
    assert [batch.paths for batch in first] == [batch.paths for batch in second]
    assert not torch.equal(first[0].images, second[0].images)
    with pytest.raises(ConfigError, match=r"data\.rect"):
        train_loader(index, rect=True, image_size=(64, 96))


def test_images_with_rare_classes_come_more_often(index: DatasetIndex) -> None:
    # Class 2 is in one image of seven (the fourth): sqrt(0.9 / (1 / 7)) = 2.51 times; class 1 in three, 1.45 times.
    options = {"repeat_factor": 0.9, "augment": AugmentConfig(mosaic=0)}
    loader = train_loader(index, **options)
    factors = image_repeat_factors(index, 0.9)
    assert len(loader) == -(-round(factors.sum()) // 3)
    shown = [epoch(loader, number) for number in range(30)]
    assert {len(batches) for batches in shown} == {len(loader)}
    times = np.bincount([i for batches in shown for batch in batches for i in batch.indices.tolist()])
    np.testing.assert_allclose(times / 30, factors, atol=0.25)
    images = {batch.images[row].numpy().tobytes() for batch in shown[0] for row in range(len(batch.images))}
    assert len(images) == round(factors.sum())  # augmented anew each time
    assert_same(shown[3], epoch(train_loader(index, workers=2, **options), 3))
    assert_same(shown[3][2:], epoch(loader, 3, start_step=2))
    shares = [epoch(train_loader(index, rank=rank, world_size=2, batch_size=4, **options), 1) for rank in (0, 1)]
    for whole, left, right in zip(epoch(train_loader(index, batch_size=4, **options), 1), *shares, strict=True):
        assert torch.equal(whole.images, torch.cat([left.images, right.images])[: len(whole.images)])


def test_rectangular_batches_cannot_repeat_images(index: DatasetIndex) -> None:
    with pytest.raises(ConfigError, match=r"data\.repeat_factor: 0\.5 .* data\.rect: true needs fixed batches; set"):
        train_loader(index, rect=True, repeat_factor=0.5)


def test_training_on_a_size_of_two_sides(index: DatasetIndex) -> None:
    for strong in (True, False):
        assert epoch(train_loader(index, image_size=(64, 96), strong=strong))[0].images.shape[2:] == (64, 96)


def test_after_the_cutoff_a_batch_has_no_mosaic(index: DatasetIndex) -> None:
    plain = AugmentConfig(scale=0, translate=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    batches = epoch(train_loader(index, strong=False, augment=plain, image_size=80, batch_size=7))
    letterboxed = build_eval_loader(index, image_size=80, batch_size=7, rect=False)
    expected = next(iter(letterboxed))
    row = batches[0].indices.tolist().index(0)
    # The first image is 60 x 80: only padded, by both.
    assert torch.equal(batches[0].images[row], expected.images[0])
    counts = torch.bincount(batches[0].targets[:, 0].long(), minlength=7)
    assert counts[batches[0].indices.argsort()].tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_flips_take_the_boxes_along(index: DatasetIndex) -> None:
    still = {"scale": 0, "translate": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
    options = {"strong": False, "image_size": 64, "batch_size": 7}
    (plain,) = epoch(train_loader(index, augment=AugmentConfig(fliplr=0, **still), **options))
    (both,) = epoch(train_loader(index, augment=AugmentConfig(fliplr=1, flipud=1, **still), **options))
    assert torch.equal(both.images, plain.images.flip(2, 3))
    torch.testing.assert_close(both.targets[:, 2:4], 1 - plain.targets[:, 2:4])
    torch.testing.assert_close(both.targets[:, 4:], plain.targets[:, 4:])


@pytest.mark.parametrize("count", [1, 2])
def test_data_sets_smaller_than_a_batch(write_dataset: Callable[..., Path], count: int) -> None:
    small = build_index([write_dataset({f"{i}.png": ((30, 40), "0 0.5 0.5 0.5 0.5\n") for i in range(count)})], ["a"])
    (batch,) = epoch(train_loader(small, batch_size=8, workers=2))
    assert len(batch.images) == count
    (filled,) = epoch(train_loader(small, batch_size=8, rank=1, world_size=3))
    assert filled.indices.tolist()[0] in range(count)


def test_a_cache_changes_no_pixel(index: DatasetIndex) -> None:
    cache = RamCache(index, (64, 64))
    assert cache.filled
    for strong in (True, False):
        assert_same(epoch(train_loader(index, strong=strong, cache=cache)), epoch(train_loader(index, strong=strong)))
    assert_same(epoch(train_loader(index, cache=cache, workers=2)), epoch(train_loader(index)))
    with pytest.raises(ValueError, match=r"holds training images for \(64, 64\)"):
        train_loader(index, cache=cache, image_size=96)


def test_nothing_in_the_data_set_changes(index: DatasetIndex, tree_hash: Callable[[Path], str]) -> None:
    root = Path(str(index.paths[0])).parents[2]
    before, labels = tree_hash(root), index.boxes.copy()
    for _ in range(2):
        epoch(train_loader(index, cache=RamCache(index, (64, 64))))
        list(build_eval_loader(index, image_size=64, batch_size=3))
    assert tree_hash(root) == before
    np.testing.assert_array_equal(index.boxes, labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_becomes_unreadable(index: DatasetIndex, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    path = Path(str(index.paths[3]))
    path.write_bytes(path.read_bytes()[:200])
    loader = train_loader(index, strong=False, workers=workers, batch_size=7)
    with caplog.at_level(logging.WARNING, "yolov6_ignite"):
        for number in (0, 1):
            (batch,) = epoch(loader, number)
            row = batch.indices.tolist().index(3)
            assert row not in batch.targets[:, 0].tolist()
            assert batch.images[row].unique().numel() <= 2
    assert loader.dataset.source.unreadable == 1  # type: ignore[attr-defined]
    if workers == 0:
        assert caplog.text.count(str(path)) == 1
    loader.close()

    with pytest.raises(DatasetError) as caught:
        epoch(train_loader(index, workers=workers, batch_size=7, strong=False, on_bad_image="error"))
    assert str(caught.value).startswith(f"{path}: ")
    assert "Traceback" not in str(caught.value)

    (batch,) = build_eval_loader(index, image_size=64, batch_size=7, rect=False)
    assert batch.images[3].unique().tolist() == [114]
    assert 3 not in batch.targets[:, 0].tolist()


def test_workers_end_when_told_and_after_an_error(index: DatasetIndex) -> None:
    before = set(multiprocessing.active_children())
    loader = train_loader(index, workers=2, strong=False, on_bad_image="error")
    first = epoch(loader)
    assert set(multiprocessing.active_children()) > before
    loader.close()
    assert set(multiprocessing.active_children()) == before
    assert_same(first, epoch(loader))
    Path(str(index.paths[3])).write_bytes(b"")
    with pytest.raises(DatasetError):
        epoch(loader)
    assert set(multiprocessing.active_children()) == before


def test_evaluation_batches_are_cut_by_shape(index: DatasetIndex) -> None:
    loader = build_eval_loader(index, image_size=256, batch_size=3)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(288, 288), (288, 288), (160, 288)]
    aspects = [index.sizes[i, 1] / index.sizes[i, 0] for batch in batches for i in batch.indices.tolist()]
    assert aspects == sorted(aspects)
    assert_same(batches, list(build_eval_loader(index, image_size=256, batch_size=3, workers=2)))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_evaluate_every_batch_once(index: DatasetIndex, world_size: int) -> None:
    whole = list(build_eval_loader(index, image_size=64, batch_size=2))
    parts = [
        list(build_eval_loader(index, image_size=64, batch_size=2, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    joined = [parts[i % world_size][i // world_size] for i in range(len(whole))]
    assert_same(whole, joined)
    # Every rank has a batch: one too many ranks repeats the last, which counts once by its images' indices.
    assert sum(map(len, parts)) == max(len(whole), world_size)
    assert all(parts)


def test_boxes_go_back_to_the_original_image(index: DatasetIndex) -> None:
    for options in ({"rect": True}, {"rect": False}, {"rect": False, "shrink_px": 6}):
        for batch in build_eval_loader(index, image_size=160, batch_size=3, **options):
            height, width = batch.images.shape[2:]
            for row, i in enumerate(batch.indices.tolist()):
                h, w, gain_h, gain_w, top, left = batch.letterbox[row].tolist()
                assert (h, w) == tuple(index.sizes[i])
                targets = batch.targets[batch.targets[:, 0] == row]
                x = (targets[:, 2] * width - left) / gain_w
                y = (targets[:, 3] * height - top) / gain_h
                # Cut at the letterbox's edge by a thousandth of a pixel.
                np.testing.assert_allclose(x / w, index.labels(i)[:, 1], atol=1e-4)
                np.testing.assert_allclose(y / h, index.labels(i)[:, 2], atol=1e-4)
                np.testing.assert_allclose(targets[:, 4] * width / gain_w / w, index.labels(i)[:, 3], atol=1e-4)


def test_shrinking_is_the_references(write_dataset: Callable[..., Path]) -> None:
    index = build_index([write_dataset({"a.png": ((96, 128), "")})], ["a"])
    (batch,) = build_eval_loader(index, image_size=256, batch_size=1, rect=False, shrink_px=4)
    assert batch.images.shape == (1, 3, 256, 256)
    assert batch.letterbox.tolist() == [[96, 128, 1.96875, 1.96875, 33, 2]]
    with pytest.raises(ConfigError, match="shrink_px"):
        build_eval_loader(index, image_size=64, batch_size=1, shrink_px=64)


def test_evaluation_on_a_size_of_two_sides(index: DatasetIndex) -> None:
    for rect in (True, False):
        for batch in build_eval_loader(index, image_size=(64, 96), batch_size=3, rect=rect):
            assert batch.images.shape[2:] == (64, 96)
