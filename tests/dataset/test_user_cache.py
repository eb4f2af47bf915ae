from __future__ import annotations

from pathlib import Path

import pytest

from yolov6_ignite.data.user_cache import atomic_write, user_cache_dir


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOLOV6_IGNITE_CACHE", str(tmp_path))
    assert user_cache_dir() == tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "parts"),
    [
        ("linux", "XDG_CACHE_HOME", ("yolov6_ignite",)),
        ("win32", "LOCALAPPDATA", ("yolov6_ignite",)),
        ("linux", None, (".cache", "yolov6_ignite")),
        ("darwin", None, ("Library", "Caches", "yolov6_ignite")),
    ],
)
def test_every_system_has_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, parts: tuple[str, ...]
) -> None:
    for name in ("YOLOV6_IGNITE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert user_cache_dir() == tmp_path.joinpath(*parts)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as stream:
        stream.write(b"old")
    with pytest.raises(TypeError), atomic_write(path) as stream:
        stream.write(b"half" + "text")  # type: ignore[operator]
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]
