"""Ground truth from labels and from annotation files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolov6_ignite.errors import DatasetError
from yolov6_ignite.metrics import CocoGroundTruth


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 30, "file_name": "val/cat.jpg", "height": 50, "width": 60},
            {"id": 7, "file_name": "dog.png", "height": 50, "width": 60},
            {"id": 9, "file_name": "elsewhere.png", "height": 50, "width": 60},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "bird"}],
        "annotations": [
            {"id": 0, "image_id": 30, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 8, 4]},
            {"id": 3, "image_id": 7, "category_id": 18, "bbox": [0, 0, 50, 40], "area": 9, "iscrowd": 1},
        ],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "instances.json"


def write(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value))
    return file


STEMS, NAMES = ["dog", "cat"], ["bird", "cat", "dog"]


def test_labels_become_pixel_boxes_with_ids_from_1() -> None:
    labels = [np.array([[1, 0.5, 0.5, 0.2, 0.4], [0, 0.1, 0.1, 0.2, 0.2]], np.float32), np.zeros((0, 5), np.float32)]
    truth = CocoGroundTruth.from_index(np.array([[100, 200], [10, 10]], np.int32), labels.__getitem__, ["a", "b"])
    first, second = truth.coco.dataset["annotations"]
    assert (first["id"], first["image_id"], first["category_id"], first["iscrowd"]) == (1, 0, 1, 0)
    assert first["bbox"] == pytest.approx([80, 30, 40, 40], abs=1e-4)
    assert first["area"] == pytest.approx(1600, rel=1e-6)
    assert (second["id"], second["bbox"]) == (2, pytest.approx([0, 0, 40, 20], abs=1e-4))
    assert (truth.image_ids, truth.category_ids, truth.names) == ([0, 1], [0, 1], ["a", "b"])
    assert truth.count_by_class() == ([1, 1], [1, 1])


def test_a_file_is_matched_by_stems_and_names_and_cut_to_the_images(file: Path) -> None:
    truth = CocoGroundTruth.from_json(write(file, content()), STEMS, NAMES)
    assert (truth.image_ids, truth.category_ids) == ([7, 30], [90, 3, 18])
    assert [
        (a["id"], a["image_id"], a["category_id"], a["area"], a["iscrowd"]) for a in truth.coco.dataset["annotations"]
    ] == [(1, 30, 3, 150, 0), (2, 7, 18, 32, 0), (3, 7, 18, 9, 1)]
    assert sorted(truth.coco.getImgIds()) == [7, 30]
    assert truth.count_by_class() == ([0, 1, 1], [0, 1, 1])


def test_image_ids_can_be_texts(file: Path) -> None:
    value = content()
    for row in value["images"]:
        row["id"] = f"i{row['id']}"
    for row in value["annotations"]:
        row["image_id"] = f"i{row['image_id']}"
    truth = CocoGroundTruth.from_json(write(file, value), STEMS, NAMES)
    assert truth.image_ids == ["i7", "i30"]
    assert len(truth.coco.dataset["annotations"]) == 3


def test_other_names_take_the_order_of_ids_with_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        truth = CocoGroundTruth.from_json(write(file, content()), STEMS, ["cat", "hound", "birdie"])
    assert truth.category_ids == [3, 18, 90]
    assert "hound = dog, birdie = bird" in caplog.text
    assert "cat =" not in caplog.text


def test_categories_without_a_class_do_not_count_and_are_named(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        truth = CocoGroundTruth.from_json(write(file, content()), STEMS, ["cat"])
    assert [a["category_id"] for a in truth.coco.dataset["annotations"]] == [3]
    assert "2 annotations" in caplog.text
    assert "ids 18" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ["dog", "kitten", "bird"],  # dog is known, but not the first by id
        ["cat", "hound"],  # another number of categories
    ],
)
def test_names_that_cannot_be_matched(file: Path, names: list[str]) -> None:
    with pytest.raises(DatasetError, match=r"instances\.json: has no category '(kitten|hound)'"):
        CocoGroundTruth.from_json(write(file, content()), STEMS, names)


def test_images_that_the_file_lacks(file: Path) -> None:
    with pytest.raises(DatasetError, match=r"no image named 'cow' \(1 of 3 are missing\)"):
        CocoGroundTruth.from_json(write(file, content()), ["cat", "cow", "dog"], NAMES)


@pytest.mark.parametrize("stems", [["dog", "dog"], ["cat", "dog"]])
def test_images_of_one_name(file: Path, stems: list[str]) -> None:
    value = content()
    value["images"].append({"id": 31, "file_name": "other/cat.png"})
    with pytest.raises(DatasetError, match="several images are named"):
        CocoGroundTruth.from_json(write(file, value), stems, NAMES)


def test_image_ids_of_two_kinds(file: Path) -> None:
    value = content()
    value["images"][0]["id"] = "thirty"
    with pytest.raises(DatasetError, match="image ids"):
        CocoGroundTruth.from_json(write(file, value), STEMS, NAMES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value.pop("images"), "'images' is missing"),
        (lambda value: value["annotations"][1].pop("bbox"), "'bbox' is missing"),
        (lambda value: value["annotations"][1].update(bbox=[1, 2, 3]), r"annotations\[1\]\.bbox has 3 numbers"),
        (lambda value: value["categories"][0].update(id="first"), "invalid literal"),
        (lambda value: value.update(images=3), "not iterable"),
    ],
)
def test_damaged_files(file: Path, change: Any, reason: str) -> None:
    value = content()
    change(value)
    with pytest.raises(DatasetError, match=rf"instances\.json: is not a COCO annotation file \(.*{reason}"):
        CocoGroundTruth.from_json(write(file, value), STEMS, NAMES)


def test_files_that_are_no_json_or_not_there(file: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        CocoGroundTruth.from_json(file, STEMS, NAMES)
    file.write_text("<xml>")
    with pytest.raises(DatasetError, match="not a COCO annotation file"):
        CocoGroundTruth.from_json(file, STEMS, NAMES)
