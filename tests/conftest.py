"""Shared by all tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference numbers and real data that are not part of the project; tests that use them skip without."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference data beside the project")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never touch the user's cache directory."""
    monkeypatch.setenv("YOLOV6_IGNITE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> Iterator[None]:
    """One here and in every process that a test starts: several processes slow each other down.

    ``YOLOV6_IGNITE_TEST_THREADS`` asks for another number. Sums depend on it in their last bits, so it is one for all.
    """
    threads = os.environ.get("YOLOV6_IGNITE_TEST_THREADS", "1")
    torch.set_num_threads(int(threads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", threads)
        yield


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set file with 10 training and 5 validation images of bright rectangles, 2 classes."""
    root = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 5)):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            image = random.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            lines = []
            for kind in range(2):
                x, y = random.integers(2, 50), random.integers(2, 20)
                image[y : y + 30, x : x + 30, kind] = 255
                lines.append(f"{kind} {(x + 15) / 96:.6f} {(y + 15) / 64:.6f} {30 / 96:.6f} {30 / 64:.6f}")
            cv2.imwrite(str(images / f"{number}.png"), image)
            (labels / f"{number}.txt").write_text("\n".join(lines) + "\n")
    file = root / "tiny.yaml"
    file.write_text("path: .\ntrain: images/train\nval: images/val\nnames: [blue, green]\n")
    return file


@pytest.fixture
def tiny_recipe(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A recipe that trains a very small network on :func:`tiny_dataset` in a second or two: 4 epochs of 3 steps."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
base: yolov6n
model: {{type: tiny, width_multiple: 0.0625, depth_multiple: 0.1}}
data: {{dataset: {tiny_dataset}, image_size: 64, batch_size: 4, workers: 0}}
augment: {{stop_last_n_epochs: 1}}
solver: {{warmup_epochs: 60, warmup_min_iterations: 0, reference_world_size: 1}}
train: {{epochs: 4, device: cpu, output_dir: {tmp_path / "runs"}, name: run}}
eval: {{interval: 2, heavy_range: 0, batch_size: 2}}
"""
    )
    return recipe
