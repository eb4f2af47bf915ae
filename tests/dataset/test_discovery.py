from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolov6_ignite.data.discovery import find_images, label_path, require_images
from yolov6_ignite.errors import DatasetError


def test_images_are_found_at_any_depth_and_hidden_ones_are_not(tmp_path: Path) -> None:
    wanted = {"a.jpg", "B.JPEG", "deep/er/c.webp", "d.tar.png"}
    for name in [*wanted, ".e.jpg", ".hidden/f.jpg", "g.txt", "jpg", "deep/.h/i.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    assert {os.path.relpath(path, tmp_path) for path in find_images(tmp_path)} == wanted


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "broken.jpg").symlink_to(tmp_path / "nothing.jpg")
    found = sorted(os.path.relpath(path, tmp_path / "set") for path in find_images(tmp_path / "set"))
    assert found == ["broken.jpg", "link/a.jpg"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/images/a.b.png", "/images/labels/a.b.txt"),
        ("/images/x/images/y/z/a.png", "/images/x/labels/y/z/a.txt"),
        ("/d/train/a.jpg", "/d/train/a.txt"),
        ("/d/my_images/images.jpg", "/d/my_images/images.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert label_path(image.replace("/", os.sep)) == label.replace("/", os.sep)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to this user")
def test_closed_folders_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "open.jpg").touch()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(DatasetError, match="closed cannot be read"):
        list(find_images(tmp_path))
    with pytest.raises(DatasetError, match="closed cannot be read"):
        require_images(closed, "here")
