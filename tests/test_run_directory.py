from __future__ import annotations

from pathlib import Path

import pytest

from yolov6_ignite import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.run_directory import choose_run_directory, config_differences


@pytest.mark.parametrize(
    ("override", "may_differ"),
    [
        ("train.epochs=301", True),
        ("train.device=cpu", True),
        ("data.workers=1", True),
        ("data.cache=ram", True),
        ("eval.interval=3", True),
        ("logging.interval=3", True),
        ("checkpoint.last_n_epochs=3", True),
        ("train.output_dir=elsewhere", True),
        ("train.seed=1", False),
        ("data.batch_size=64", False),
        ("augment.mosaic=0.5", False),
        ("solver.lr0=0.5", False),
        ("model.head.iou_type=giou", False),
        ('handlers=[{"a:B": {}}]', False),
    ],
)
def test_what_a_resumed_run_may_change(override: str, may_differ: bool) -> None:
    before, now = (load_config("yolov6n", o).model_dump(mode="json") for o in ([], [override]))
    differences = config_differences(before, now)
    assert (differences == []) == may_differ
    assert all(override.split("=")[0].split(".")[0] in line for line in differences)


def test_the_current_directory_is_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = choose_run_directory(load_config("yolov6n", ["train.output_dir=out", "train.name=a"]))
    assert run.path == Path("out/a")
    assert not run.path.exists()
    run.make()
    assert run.weights.is_dir()
    assert run.resumed_from is None
    assert not run.finished


def test_nothing_to_resume_starts_fresh_under_the_same_name(tmp_path: Path) -> None:
    config = load_config("yolov6n", [f"train.output_dir={tmp_path}", "train.resume=auto"])
    assert choose_run_directory(config).path == choose_run_directory(config).path == tmp_path / "exp"


def test_a_folder_is_a_run_to_resume(tmp_path: Path) -> None:
    config = load_config("yolov6n", [f"train.resume={tmp_path}"])
    with pytest.raises(ConfigError, match=r"last_ckpt\.pt: there is no such checkpoint"):
        choose_run_directory(config)
