"""Images on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.plots import save_image


@pytest.fixture
def rgb() -> np.ndarray:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, :30, 0] = 250
    image[:, 30:, 2] = 120
    return image


def test_a_png_is_read_back_exactly(tmp_path: Path, rgb: np.ndarray):
    save_image(tmp_path / "a.png", rgb)
    assert (cv2.imread(str(tmp_path / "a.png"))[..., ::-1] == rgb).all()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG"])
def test_a_jpeg_is_read_back_about(tmp_path: Path, rgb: np.ndarray, name: str):
    save_image(tmp_path / name, rgb)
    assert (tmp_path / name).read_bytes()[:2] == b"\xff\xd8"
    assert np.abs(cv2.imread(str(tmp_path / name))[:, :20, ::-1].astype(int) - rgb[:, :20]).max() < 12


def test_a_file_is_replaced(tmp_path: Path, rgb: np.ndarray):
    save_image(tmp_path / "a.png", rgb)
    save_image(tmp_path / "a.png", 255 - rgb)
    assert (cv2.imread(str(tmp_path / "a.png"))[..., ::-1] == 255 - rgb).all()


@pytest.mark.parametrize("name", ["a.webm", "a"])
def test_another_suffix_is_refused(tmp_path: Path, rgb: np.ndarray, name: str):
    with pytest.raises(ConfigError, match=r"\.png"):
        save_image(tmp_path / name, rgb)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_reported(tmp_path: Path, rgb: np.ndarray):
    with pytest.raises(ConfigError, match="cannot be written"):
        save_image(tmp_path / "none" / "a.png", rgb)
