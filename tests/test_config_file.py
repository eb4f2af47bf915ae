from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import (
    apply_overrides,
    dump_config,
    load_config,
    load_config_with_origins,
    recipe_path,
)
from yolov6_ignite.errors import ConfigError

RECIPES = sorted(
    p.relative_to(recipe_path("yolov6n").parent).as_posix() for p in recipe_path("yolov6n").parent.glob("*.yaml")
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_parses_and_survives_a_round_trip(recipe: str, tmp_path: Path) -> None:
    config = load_config(recipe)
    assert load_config(write(tmp_path / "again.yaml", dump_config(config))) == config


def test_a_recipe_is_found_by_its_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("yolov6n").model.type == "YOLOv6n"


def test_official_values() -> None:
    config = load_config("yolov6n")
    assert (config.solver.lr0, config.solver.momentum, config.solver.weight_decay) == (0.02, 0.937, 0.0005)
    assert (config.eval.conf_threshold, config.eval.iou_threshold, config.eval.heavy_range) == (0.03, 0.65, 50)
    assert config.model.head.iou_type == "siou"
    finetune = load_config("yolov6n_finetune")
    assert (finetune.solver.lr0, finetune.solver.lrf, finetune.augment.mixup) == (0.0032, 0.12, 0.243)
    assert finetune.model == config.model


def test_later_values_win_and_their_origins_are_known(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "base: yolov6n\ntrain:\n  epochs: 30\n  seed: 1\n")
    leaf = write(tmp_path / "leaf.yaml", "base: base.yaml\ntrain:\n  epochs: 40\n")
    config, origins = load_config_with_origins(leaf, ["train.name=run"])
    assert (config.train.epochs, config.train.seed, config.train.name) == (40, 1, "run")
    assert origins["train.epochs"] == f"{leaf}:3"
    assert origins["train.seed"] == f"{tmp_path / 'base.yaml'}:4"
    assert origins["train.name"] == "command line"
    assert "train.device" not in origins


def test_override_values_are_yaml() -> None:
    config = load_config("yolov6n", ["data.image_size=[320, 640]", "solver.lr0=1e-3", "data.recheck=true"])
    assert config.data.height_width == (320, 640)
    assert config.solver.lr0 == 1e-3
    assert config.data.recheck is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "did you mean train.epochs"),
        ("epochs=3", "did you mean train.epochs"),
        ("batch_size=3", "data.batch_size or eval.batch_size"),
        ("model.head.iou=giou", "unknown key"),
        ("frobnicate.deeply.nested=1", "the sections are model, data"),
        ("train.epochs=three", r"command line: train.epochs: .*integer.*'three'"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.epochs=[1, 2]", "train.epochs"),
        ("train=3", "command line: train"),
        ("eval.interval=0", r"command line: eval\.interval: .*greater than or equal to 1"),
        ("eval.intervall=3", r"eval\.intervall: unknown key; did you mean eval\.interval"),
        ("solver.lr0=.inf", "finite"),
        ("train.device=cuda:x", "cuda:N"),
        ("eval.shrink_px=700", "eval.shrink_px: 700 leaves nothing"),
        ("data.cache=disk", "'none' or 'ram'"),
        ("data.image_size=650", "data.image_size: 650 is not a multiple of 32, as this network needs; use 672"),
        ("eval.image_size=100", "eval.image_size: 100"),
        ("augment.mosaic=1.5", "less than or equal to 1"),
        ("augment.stop_last_n_epochs=301", "augment.stop_last_n_epochs: 301 .*train.epochs: 300"),
        ("model.head.use_dfl=true", "reg_max: 16"),
        ("train.device=tpu", "auto, cpu, cuda, cuda:N or mps"),
        ("train.name=a/b", "single folder name"),
        ("train.devices=200", "data.batch_size: 128 is less than train.devices: 200"),
        ("solver.optim=LAMB", "'SGD', 'Adam' or 'AdamW'"),
        ("train.epochs", "expected section.key=value"),
        ("train.name=[", "the value is not YAML"),
    ],
)
def test_bad_values_are_one_clear_message(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("yolov6n", [override])
    assert "pydantic" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_rectangular_batches_need_one_size() -> None:
    with pytest.raises(ConfigError, match=r"data\.rect: true .* one number"):
        load_config("yolov6n", ["data.image_size=[320, 640]", "data.rect=true"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1", r"c\.yaml:\d+: is not valid YAML"),
        ("solver: {lr0: !foo 3}", r"c\.yaml:1: is not valid YAML"),
        ("train: {name: 2024-13-45}", "is not valid YAML"),
        ("- a\n- b\n", "expected a mapping of sections"),
        ("base: yolov6n\ntrain:\n  epochs: 3\n  epochs: 4\n", r"c\.yaml:4: train\.epochs is given twice"),
        ("base: yolov6n\ntrain:\n  epochz: 3\n", r"c\.yaml:3: train\.epochz: unknown key; did you mean train\.epochs"),
        ("base: c.yaml\n", "lead back to itself"),
        ("base: nothing.yaml\n", "no such configuration file or recipe"),
        ("base: [a, b]\n", r"c\.yaml:1: base: expected one file"),
        ("train:\n  epochs: 3\n", "model: is required"),
        ("", "model: is required"),
    ],
)
def test_bad_files_are_one_clear_message(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_names_what_is_near() -> None:
    with pytest.raises(ConfigError, match="did you mean yolov6n"):
        load_config("yolov6nn")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_applied_overrides_are_validated() -> None:
    config = load_config("yolov6n")
    assert apply_overrides(config, {"eval.image_size": 320}).eval.image_size == 320
    with pytest.raises(ConfigError, match="not a multiple of 32"):
        apply_overrides(config, {"eval.image_size": 33})


def test_the_dump_holds_every_key() -> None:
    config = load_config("yolov6n")
    assert Config.model_validate(yaml.safe_load(dump_config(config))) == config
