from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6_ignite.data import build_index, load_dataset_file
from yolov6_ignite.data.random_stream import sample_generator
from yolov6_ignite.data.shapes import draw_scene, ensure_shapes_dataset
from yolov6_ignite.errors import DatasetError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


def test_the_data_set_is_whole_and_clean(folder: Path) -> None:
    dataset = load_dataset_file(ensure_shapes_dataset(folder))
    assert dataset.names == ["circle", "rectangle", "triangle"]
    for directories, count in ((dataset.train, 200), (dataset.val, 50)):
        index = build_index(directories, dataset.names, on_bad_label="error", on_bad_image="error")
        assert (len(index), index.counts.background, index.counts.duplicates) == (count, 0, 0)
        classes = np.bincount(index.boxes[:, 0].astype(int), minlength=3)
        assert classes.min() > 0.25 * classes.sum()
        assert (index.boxes[:, 3:].min(axis=0) > 0.06).all()
    assert sorted(path.name for path in folder.iterdir()) == ["shapes-v1"]


def test_it_is_drawn_once(folder: Path, tree_hash: Callable[[Path], str]) -> None:
    ensure_shapes_dataset(folder)
    before = tree_hash(folder)
    ensure_shapes_dataset(folder)
    assert tree_hash(folder) == before


def test_scenes_are_deterministic_and_boxes_hug_the_objects() -> None:
    image, rows = draw_scene(sample_generator(6, 0, 8))
    again, rows_again = draw_scene(sample_generator(6, 0, 8))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(rows, rows_again)

    alone = next(scene for i in range(50) if len((scene := draw_scene(sample_generator(6, 0, i)))[1]) == 1)
    image, ((_, cx, cy, w, h),) = alone
    height, width = image.shape[:2]
    image = cv2.medianBlur(image, 5)
    colourful = image.max(axis=2).astype(int) - image.min(axis=2) > 85
    _, _, blobs, _ = cv2.connectedComponentsWithStats(colourful.astype(np.uint8))
    x, y, blob_w, blob_h, _ = max(blobs[1:].tolist(), key=lambda blob: blob[4])
    expected = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    np.testing.assert_allclose([x, y, x + blob_w, y + blob_h], expected, atol=3)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="YOLOV6_IGNITE_CACHE"):
        ensure_shapes_dataset(tmp_path / "file" / "below")


def test_shapes_is_the_name_of_a_data_set() -> None:
    assert load_dataset_file("shapes").path.name == "shapes.yaml"
