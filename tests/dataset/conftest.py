"""Small data sets on disk and indices in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6_ignite.data import DatasetIndex, build_index

NAMES = ["a", "b", "c"]


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes images of (height, width) by name with the text of their label file, and returns the image folder."""

    def write(images: Mapping[str, tuple[tuple[int, int], str | None]], root: Path = tmp_path / "set") -> Path:
        folder = root / "images" / "train"
        labels = root / "labels" / "train"
        random = np.random.default_rng(0)
        for name, ((height, width), text) in images.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Smooth, so that images of different interpolation stay alike.
            coarse = random.integers(0, 255, (4, 5, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
            if text is not None:
                label = (labels / name).with_suffix(".txt")
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(text)
        return folder

    return write


@pytest.fixture
def index(write_dataset: Callable[..., Path]) -> DatasetIndex:
    """Seven images of different shapes with up to three boxes."""
    line = "{} {:.3f} {:.3f} 0.3 0.4\n"
    shapes = [(60, 80), (80, 60), (64, 64), (48, 96), (100, 90), (70, 70), (33, 64)]
    images = {
        f"{i}.png": (shape, "".join(line.format(k, 0.2 + 0.1 * i, 0.7 - 0.05 * k) for k in range(i % 4)))
        for i, shape in enumerate(shapes)
    }
    return build_index([write_dataset(images)], NAMES)


@pytest.fixture
def tree_hash() -> Callable[[Path], str]:
    """Hash of all names, contents and times below a folder."""

    def tree(folder: Path) -> str:
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()

    return tree
