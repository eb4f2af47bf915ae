from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from yolov6_ignite.data import load_dataset_file
from yolov6_ignite.errors import DatasetError


@pytest.fixture
def root(write_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    write_dataset({"0.png": ((20, 20), None)}, tmp_path / "set")
    return tmp_path / "set"


def write(root: Path, text: str) -> Path:
    file = root / "mine.yaml"
    file.write_text(text)
    return file


def test_paths_are_relative_to_the_file_and_its_path_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "yaml").mkdir()
    file = write(root / "yaml", "path: ../images\ntrain: train\nval: [train, train]\nnames: {1: b, 0: a}\nnc: 2\n")
    monkeypatch.chdir(root.parent)
    dataset = load_dataset_file("set/yaml/mine.yaml")
    assert dataset.names == ["a", "b"]
    assert dataset.train == [root / "images" / "train"]
    assert dataset.val == dataset.train * 2
    assert (dataset.test, dataset.annotations, dataset.is_coco) == ([], None, False)
    assert dataset.path == file


def test_links_below_the_path_stay_because_labels_lie_beside_them(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "images").symlink_to(root / "images")
    dataset = load_dataset_file(write(root, "train: elsewhere/images/train\nval: images/train\nnames: [a]\n"))
    assert dataset.train == [root / "elsewhere" / "images" / "train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/train\n", "'names'"),
        ("train: images/train\nval: images/train\nnames: []\n", "'names'"),
        ("train: images/train\nval: images/train\nnames: [a]\nnc: 2\n", "nc is 2 but names has 1"),
        ("train: images/train\nval: images/train\nnames: {0: a, 2: b}\n", "0 to 1"),
        ("train: images/train\nval: images/train\nnames: [a, no]\n", "entry 1 is False"),
        ("train: images/train\nval: images/train\nnames: [a]\nnc: one\n", "nc must be"),
        ("train: images/train\nnames: [a]\n", "'val' is missing"),
        ("train: images/trian\nval: images/train\nnames: [a]\n", "trian does not exist (the nearest folder that does"),
        ("train: labels\nval: images/train\nnames: [a]\n", "no image in"),
        ("train: mine.yaml\nval: images/train\nnames: [a]\n", "is a file"),
        ("train: 3\nval: images/train\nnames: [a]\n", "train must be a path"),
        ("train: images/train\nval: images/train\nnames: [a]\nis_coco: true\n", "needs anno_path"),
        ("train: images/train\nval: images/train\nnames: [a]\nis_coco: 2\n", "is_coco must be"),
        ("train: images/train\nval: images/train\nnames: [a]\nanno_path: no.json\n", "no.json does not exist"),
        ("train: images/train\n val: [\n", "mine.yaml:2: not valid YAML"),
        ("- train\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("a: \x00", "not a YAML text file"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(root: Path, text: str, message: str) -> None:
    (root / "labels").mkdir(exist_ok=True)
    file = write(root, text)
    with pytest.raises(DatasetError) as caught:
        load_dataset_file(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "nothing", "some/where.yaml"])
def test_missing_file_lists_the_names_that_work(name: str) -> None:
    with pytest.raises(DatasetError, match=r"does not exist.*shapes, coco, voc"):
        load_dataset_file(name)


def test_only_the_splits_that_are_read_must_exist(root: Path) -> None:
    file = write(root, "train: nowhere\nval: images/train\ntest: nowhere\nnames: [a]\n")
    assert load_dataset_file(file, splits=["val"]).train == [root / "nowhere"]
    with pytest.raises(DatasetError, match=r"test: .*nowhere does not exist"):
        load_dataset_file(file, splits=["test"])


def test_unknown_keys_are_named_and_those_of_other_tools_are_not(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(root, "train: images/train\nval: images/train\nnames: [a]\ndownload: x\nvla: y\n")
    with caplog.at_level(logging.WARNING, "yolov6_ignite"):
        load_dataset_file(file)
    assert "vla" in caplog.text
    assert "download" not in caplog.text


@pytest.mark.parametrize(("name", "classes"), [("coco", 80), ("voc.yaml", 20)])
def test_shipped_files_are_found_by_name_and_are_relative_to_the_current_directory(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset_file(name, splits=[])
    assert len(dataset.names) == len(set(dataset.names)) == classes
    assert dataset.val[0].is_relative_to(tmp_path / "datasets")


def test_a_file_in_the_current_directory_comes_before_a_shipped_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "coco.yaml").write_text("train: images/train\nval: images/train\nnames: [mine]\n")
    monkeypatch.chdir(root)
    assert load_dataset_file("coco.yaml").names == ["mine"]
