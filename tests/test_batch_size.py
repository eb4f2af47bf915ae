"""Automatic batch size: the search on made-up memory, and the steps that it measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from yolov6_ignite.handlers import ModelEMA

from yolov6_ignite import batch_size, load_config
from yolov6_ignite.batch_size import find_batch_size, largest_batch_size, train_on_noise
from yolov6_ignite.config import Config
from yolov6_ignite.distillation import Teacher
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.random_state import random_state

MIB = 2**20
NAMES = ["cat", "dog"]


class Memory:
    """A device of so many bytes; remembers what was tried."""

    def __init__(self, size: float, use: Callable[[int], float]) -> None:
        self.size = size
        self.use = use
        self.tried: list[int] = []

    def __call__(self, images: int) -> int:
        self.tried.append(images)
        used = int(self.use(images))
        if used > self.size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return used


def best(use: Callable[[int], float], budget: float) -> int:
    return max((n for n in (1, 2, 4, *range(8, 1025, 8)) if int(use(n)) <= budget), default=0)


@given(
    base=st.integers(0, 20_000 * MIB),
    image=st.integers(MIB, 2000 * MIB),
    size=st.integers(1000 * MIB, 80_000 * MIB),
    fraction=st.floats(0.05, 1),
)
def test_memory_on_a_line_is_found_in_five_trials(base: int, image: int, size: int, fraction: float) -> None:
    memory = Memory(size, lambda n: base + image * n)
    found = largest_batch_size(memory, int(fraction * size))
    assert found == best(memory.use, int(fraction * size))
    assert len(memory.tried) <= 5
    assert len(set(memory.tried)) == len(memory.tried)


@given(
    base=st.floats(0, 100),
    scale=st.floats(0.01, 50),
    power=st.floats(0.3, 3),
    step=st.integers(1, 200),
    size=st.floats(10, 1e6),
    fraction=st.floats(0.1, 1),
)
def test_any_rising_memory_is_found_in_few_trials(
    base: float, scale: float, power: float, step: int, size: float, fraction: float
) -> None:
    memory = Memory(size, lambda n: base + scale * (n // step * step) ** power + n / 1000)
    found = largest_batch_size(memory, int(fraction * size))
    assert found == best(memory.use, int(fraction * size))
    assert found in (0, *memory.tried)
    assert len(memory.tried) <= 14


def test_after_running_out_of_memory_the_rest_is_halved() -> None:
    memory = Memory(1000, lambda n: n if n <= 300 else 5000)  # the line promises 1000 images
    assert largest_batch_size(memory, 900) == 296
    assert memory.tried[:5] == [8, 16, 896, 456, 232]
    assert max(memory.tried[3:]) < 896


def test_other_errors_are_not_memory() -> None:
    def measure(images: int) -> int:
        if images > 8:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return 1

    with pytest.raises(RuntimeError, match="illegal memory access"):
        largest_batch_size(measure, 1000)


@pytest.mark.parametrize(("largest", "found"), [(7, 4), (3, 2), (1, 1), (0, 0)])
def test_few_images(largest: int, found: int) -> None:
    assert largest_batch_size(Memory(largest, lambda n: n), 100) == found


@pytest.fixture
def config(tiny_recipe: Path) -> Config:
    return load_config(tiny_recipe, ["data.batch_size=auto"])


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_cuda_it_is_a_documented_number(config: Config, device: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "yolov6_ignite"):
        assert find_batch_size(config, NAMES, torch.device(device)) == 16
    assert "auto is 16 images where there is no CUDA device" in caplog.text


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[int]]:
    """A CUDA device of so many MiB on which an image takes so many, 200 MiB are taken by others."""

    def make(size: int, image: int) -> list[int]:
        taken = [200]
        tried: list[int] = []

        def steps(config: Config, names: Any, device: torch.device, images: int, *, teacher: Any) -> None:
            tried.append(images)
            taken[0] = 200 + images * image
            if taken[0] > size:
                raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(batch_size, "train_on_noise", steps)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((size - taken[0]) * MIB, size * MIB))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        return tried

    return make


def test_a_cuda_device_is_filled_to_its_part(
    config: Config, fake_cuda: Callable[[int, int], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    tried = fake_cuda(10 * 1024, 50)
    with caplog.at_level("INFO", "yolov6_ignite"):
        assert find_batch_size(config, NAMES, torch.device("cuda", 0)) == 152  # 200 + 152 x 50 <= 8192 MiB
    assert tried == [8, 16, 152, 160]
    assert "152 images a device, within 8.0 of the 10.0 GiB of cuda:0" in caplog.text


def test_a_device_that_is_too_small_is_said_so(config: Config, fake_cuda: Callable[[int, int], list[int]]) -> None:
    fake_cuda(1024, 900)
    with pytest.raises(ConfigError, match=r"one image of 64 x 64 px takes more than data\.memory_fraction: 0\.8"):
        find_batch_size(config, NAMES, torch.device("cuda", 0))


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.precision=bf16", "solver.optim=Adam"],
        ["model.head.use_dfl=true", "model.head.reg_max=16", "distill.teacher=any.pt"],
        ["train.fuse_ab=true"],
    ],
    ids=["plain", "bf16", "distilled", "fuse_ab"],
)
def test_measured_steps_are_those_of_training(
    tiny_recipe: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_recipe, ["data.batch_size=auto", "model.head.atss_warmup_epoch=4", *overrides])
    teacher = None
    if config.distill.teacher is not None:
        teacher = Teacher(build_model(config.model, len(NAMES)))
    epochs: list[tuple[int, int]] = []
    averages: list[ModelEMA] = []
    make_loss, make_average = batch_size.build_loss, batch_size.ModelEMA

    def watched_loss(*arguments: Any, **options: Any) -> Any:
        loss = make_loss(*arguments, **options)
        assert options == {"reduce_over_ranks": False}
        loss.register_forward_hook(
            lambda *call: epochs.append((call[2]["epoch"], len(call[1][0].logits))), with_kwargs=True
        )
        return loss

    def watched_average(model: torch.nn.Module) -> ModelEMA:
        averages.append(make_average(model))
        return averages[-1]

    monkeypatch.setattr(batch_size, "build_loss", watched_loss)
    monkeypatch.setattr(batch_size, "ModelEMA", watched_average)
    before = random_state()
    train_on_noise(config, NAMES, torch.device("cpu"), 3, teacher=teacher)
    assert same(before, random_state())
    assert epochs == [(0, 3), (0, 3), (1, 3), (1, 3)]
    assert averages[0].updates == 2


def test_noise_has_the_boxes_of_mosaics() -> None:
    batch = batch_size._noise(5, (64, 96), 3)
    assert batch.images.shape == (5, 3, 64, 96)
    assert batch.images.float().std() > 50
    assert np.bincount(batch.targets[:, 0].long()).tolist() == [128, 24, 24, 24, 24]
    assert set(batch.targets[:, 1].tolist()) == {0, 1, 2}
    low, high = batch.targets[:, 2:4] - batch.targets[:, 4:] / 2, batch.targets[:, 2:4] + batch.targets[:, 4:] / 2
    assert low.min() > -1e-6
    assert high.max() < 1 + 1e-6
