from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6_ignite.data import DatasetIndex, build_index
from yolov6_ignite.data import index as index_module
from yolov6_ignite.errors import DatasetError

NAMES = ["a", "b"]
GOOD = "0 0.5 0.5 0.2 0.2\n"
Write = Callable[..., Path]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the images that have been read."""
    paths: list[str] = []
    read = index_module.read_image

    def reading(path: str) -> np.ndarray:
        paths.append(path)
        return read(path)

    monkeypatch.setattr(index_module, "read_image", reading)
    return paths


def same(first: DatasetIndex, second: DatasetIndex) -> bool:
    arrays = ("paths", "sizes", "boxes", "offsets")
    equal = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)
    return equal and (first.fingerprint, first.problems, first.counts) == (
        second.fingerprint, second.problems, second.counts,
    )  # fmt: skip


def test_labels_lie_flat_in_the_order_of_the_paths(write_dataset: Write) -> None:
    folder = write_dataset({
        "b.png": ((20, 30), "1 0.5 0.5 0.2 0.2\n0 0.25 0.5 0.2 0.2\n"),
        "a/z.png": ((40, 20), GOOD),
        "c.jpg": ((50, 60), None),
        "d.png": ((15, 15), ""),
    })  # fmt: skip
    index = build_index([folder], NAMES)
    assert [os.path.relpath(path, folder) for path in index.paths] == ["a/z.png", "b.png", "c.jpg", "d.png"]
    assert index.sizes.tolist() == [[40, 20], [20, 30], [50, 60], [15, 15]]
    assert (index.sizes.dtype, index.boxes.dtype, index.offsets.dtype) == (np.int32, np.float32, np.int64)
    assert index.offsets.tolist() == [0, 1, 3, 3, 3]
    assert index.labels(1)[:, 0].tolist() == [1, 0]
    assert index.labels(2).shape == (0, 5)
    assert np.shares_memory(index.labels(1), index.boxes)
    assert index.counts == (4, 3, 2, 0, 0, 0)
    assert len(index) == 4


def test_a_subset_is_an_index_of_its_own(index: DatasetIndex) -> None:
    some = index.subset([5, 1, 3, 1])
    assert some.paths.tolist() == index.paths[[1, 3, 5]].tolist()
    assert some.sizes.tolist() == index.sizes[[1, 3, 5]].tolist()
    assert (some.sizes.dtype, some.boxes.dtype, some.offsets.dtype) == (np.int32, np.float32, np.int64)
    for ours, theirs in enumerate((1, 3, 5)):
        assert np.array_equal(some.labels(ours), index.labels(theirs))
    assert some.counts == (3, len(some.boxes), 0, 0, 0, 0)
    assert index.subset(np.array([0, 4])).counts == (2, 0, 2, 0, 0, 0)
    fingerprints = {chosen: index.subset(chosen).fingerprint for chosen in ((1, 3, 5), (1, 3), (1, 3, 6))}
    assert len({index.fingerprint, *fingerprints.values()}) == 4
    assert some.fingerprint == fingerprints[1, 3, 5]
    assert same(some.subset([0, 1, 2]), some.subset([2, 1, 0]))
    assert len(index.subset([])) == 0
    for bad in ([7], [-1, 2]):
        with pytest.raises(IndexError, match="of an index of 7"):
            index.subset(bad)


def test_what_is_bad_is_counted_and_named(write_dataset: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_dataset({
        "a.png": ((20, 30), f"{GOOD}{GOOD}7 0.5 0.5 0.1 0.1\n0 0.5\n"),
        "b.png": ((9, 30), GOOD),
        "c.jpg": ((20, 30), GOOD),
        "d.png": ((10, 10), "0 0.5 0.5 0 0\n"),
        "e.png": ((10, 10), GOOD),
    })  # fmt: skip
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:-100])
    label = folder.parents[1] / "labels" / "train" / "e.txt"
    label.write_bytes(b"\xff\xfe0")
    with caplog.at_level(logging.INFO, "yolov6_ignite"):
        index = build_index([folder], NAMES)
    assert [Path(path).name for path in index.paths] == ["a.png", "d.png", "e.png"]
    assert index.counts == (3, 1, 2, 2, 4, 1)
    assert [(Path(problem.path).name, problem.line) for problem in index.problems] == [
        ("a.txt", 3), ("a.txt", 4), ("b.png", None), ("c.jpg", None), ("d.txt", 1), ("e.txt", 1),
    ]  # fmt: skip
    assert "at least 10 px" in index.problems[2].reason
    assert "2 bad images and 4 bad label lines" in caplog.text
    assert "a.txt:3: class 7" in caplog.text
    assert "and 1 more" in caplog.text


@pytest.mark.parametrize("cached", [False, True])
def test_policies_refuse_with_the_first_offenders(write_dataset: Write, cached: bool) -> None:
    folder = write_dataset(
        {"a.png": ((20, 30), f"{GOOD}0 2 2 2 2\n"), "b.png": ((5, 30), GOOD), "c.png": ((20, 20), "")}
    )
    if cached:
        build_index([folder], NAMES)
    with pytest.raises(DatasetError, match=r"1 bad label lines .*\n.*a\.txt:2: 2 is outside 0 to 1"):
        build_index([folder], NAMES, on_bad_label="error")
    with pytest.raises(DatasetError, match=r"1 bad images .*\n.*b\.png: 30 x 5 px"):
        build_index([folder], NAMES, on_bad_image="error")


def test_a_data_set_without_a_usable_image_is_refused(write_dataset: Write, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no usable image"):
        build_index([write_dataset({"a.png": ((5, 5), GOOD)})], NAMES)
    with pytest.raises(DatasetError, match="does not exist"):
        build_index([tmp_path / "nothing"], NAMES)


def test_labels_in_the_wrong_place_are_pointed_out(write_dataset: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_dataset({"a.png": ((20, 20), None)})
    build_index([folder], NAMES)
    assert f"expected for example {folder.parents[1] / 'labels' / 'train' / 'a.txt'}" in caplog.text


def test_folders_that_overlap_give_every_image_once(write_dataset: Write) -> None:
    folder = write_dataset({"a.png": ((20, 20), GOOD), "sub/b.png": ((20, 20), GOOD)})
    assert len(build_index([folder, folder / "sub"], NAMES)) == 2


def test_an_unchanged_data_set_is_read_once(write_dataset: Write, scans: list[str]) -> None:
    folder = write_dataset({"a.png": ((20, 20), f"{GOOD}bad\n"), "b.png": ((5, 20), GOOD)})
    first = build_index([folder], NAMES)
    second = build_index([folder], NAMES)
    assert len(scans) == 2
    assert same(first, second)
    build_index([folder], NAMES, recheck=True)
    assert len(scans) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels: (labels / "a.txt").write_text(GOOD + "1 0.25 0.25 0.1 0.1\n"),
        lambda images, labels: (labels / "c.txt").write_text(GOOD),
        lambda images, labels: (labels / "a.txt").unlink(),
        lambda images, labels: (images / "a.png").unlink(),
        lambda images, labels: shutil.copy(images / "a.png", images / "z.png"),
        lambda images, labels: os.utime(images / "a.png", ns=(1, 1)),
    ],
    ids=["edited label", "new label", "removed label", "removed image", "new image", "touched image"],
)
def test_every_change_is_noticed(
    write_dataset: Write, scans: list[str], change: Callable[[Path, Path], object]
) -> None:
    folder = write_dataset({"a.png": ((20, 20), GOOD), "b.png": ((20, 20), GOOD), "c.png": ((20, 20), None)})
    build_index([folder], NAMES)
    before = len(scans)
    change(folder, folder.parents[1] / "labels" / "train")
    changed = build_index([folder], NAMES)
    assert len(scans) > before
    assert same(changed, build_index([folder], NAMES, recheck=True))


def test_more_classes_are_checked_anew(write_dataset: Write) -> None:
    folder = write_dataset({"a.png": ((20, 20), "2 0.5 0.5 0.2 0.2\n")})
    assert build_index([folder], NAMES).counts.bad_lines == 1
    assert build_index([folder], [*NAMES, "c"]).counts.bad_lines == 0


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_cache_heals(write_dataset: Write, tmp_path: Path, scans: list[str], damage: str) -> None:
    folder = write_dataset({f"{i}.png": ((20, 20), GOOD) for i in range(8)})
    cache = tmp_path / "cache"
    first = build_index([folder], NAMES, cache_dir=cache)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flip":
        at = data.index(first.boxes.tobytes())
        data[at + 3] ^= 0x40
    else:
        data = bytearray() if damage == "empty" else bytearray(b"no archive at all")
    file.write_bytes(data)
    assert same(first, build_index([folder], NAMES, cache_dir=cache))
    assert len(scans) == 16
    build_index([folder], NAMES, cache_dir=cache)
    assert len(scans) == 16


def test_a_cache_that_cannot_be_written_costs_a_warning(
    write_dataset: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_dataset({"a.png": ((20, 20), GOOD)})
    (tmp_path / "file").touch()
    assert len(build_index([folder], NAMES, cache_dir=tmp_path / "file" / "below")) == 1
    assert "cannot be kept" in caplog.text


def test_the_data_set_is_never_written_to(
    write_dataset: Write, tree_hash: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = write_dataset({"a.jpg": ((20, 20), GOOD), "b.jpg": ((20, 20), "bad")})
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-2])  # the reference would write it anew
    before = tree_hash(folder.parents[1])
    build_index([folder], NAMES)
    assert tree_hash(folder.parents[1]) == before


def test_the_fingerprint_is_of_the_content(write_dataset: Write, tmp_path: Path) -> None:
    folder = write_dataset({"a.png": ((20, 20), GOOD), "b.png": ((20, 20), GOOD)})
    original = build_index([folder], NAMES).fingerprint
    shutil.copytree(folder.parents[1], tmp_path / "moved")  # new times, another place
    moved = tmp_path / "moved" / "images" / "train"
    assert build_index([moved], NAMES).fingerprint == original
    (tmp_path / "moved" / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    assert build_index([moved], NAMES).fingerprint != original
    (moved / "a.png").rename(moved / "c.png")
    assert build_index([moved], NAMES).fingerprint != original


def test_pictures_with_other_pixels_have_another_fingerprint(write_dataset: Write) -> None:
    folder = write_dataset({"a.png": ((20, 20), GOOD)})
    original = build_index([folder], NAMES).fingerprint
    (folder / "a.png").write_bytes(cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes())
    assert build_index([folder], NAMES).fingerprint != original
