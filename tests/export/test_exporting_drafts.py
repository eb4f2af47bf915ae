"""Files get their names all at once, and never in the place of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.drafts import Drafts, drafts_of


def fill(drafts: Drafts) -> None:
    for path in drafts.paths:
        path.write_text(f"content of {path.name}")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [tmp_path / "model.xml", tmp_path / "model.bin"]


def test_files_get_their_names_in_the_end(files: list[Path], tmp_path: Path) -> None:
    with drafts_of(files) as drafts:
        fill(drafts)
        assert not any(file.exists() for file in files)
        drafts.publish()
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert [file.read_text() for file in files] == ["content of model.xml", "content of model.bin"]


@pytest.mark.parametrize("place", [0, 1])
def test_all_or_none_are_there(place: int, files: list[Path], tmp_path: Path) -> None:
    with drafts_of(files) as drafts:
        fill(drafts)
        files[place].write_text("mine")
        with pytest.raises(ConfigError, match=f"{files[place].name}: has appeared meanwhile, and stays"):
            drafts.publish()
    assert list(tmp_path.iterdir()) == [files[place]]
    assert files[place].read_text() == "mine"


def test_what_was_not_made_cannot_be_published(files: list[Path], tmp_path: Path) -> None:
    with drafts_of(files) as drafts:
        drafts.write(b"only the first")
        with pytest.raises(ConfigError, match=r"model\.xml: cannot be written \(No such file or directory\)"):
            drafts.publish()
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_nowhere_stay(files: list[Path], tmp_path: Path) -> None:
    files[1].symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"model\.bin: is there already"), drafts_of(files):
        pass
    assert list(tmp_path.iterdir()) == [files[1]]


def test_failed_ones_replace_older_ones(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "model.xml.failed").write_text("old")
    with drafts_of(files) as drafts:
        fill(drafts)
        kept = drafts.keep_failed()
    assert kept == (tmp_path / "model.xml.failed", tmp_path / "model.bin.failed")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert kept[0].read_text() == "content of model.xml"
