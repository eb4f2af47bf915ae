"""Every shipped recipe: its values are the reference's, and a leaf says only what differs."""

from __future__ import annotations

import configparser
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolov6_ignite.config_file import dump_config, load_config, recipe_names, recipe_path

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = {"custom", "quickstart"}  # for the user's own data: the reference has no such files
RECIPES = [name for name in recipe_names() if name not in OURS]
PTQ = [name for name in RECIPES if name.endswith("_ptq")]  # the reference has flags instead
QAT = [name for name in RECIPES if name.endswith("_qat")]
FINETUNE = [name for name in RECIPES if name.endswith("_finetune")]

# The reference's keys that our networks do not need, because the network itself tells (specification, models 1.1), and
# those of other files than the recipe's own.
NOT_OURS = {
    "model": {"pretrained", "scales"},
    "neck": {"in_channels"},
    "head": {"in_channels", "begin_indices", "anchors", "out_indices", "distill_weight"},
}
EVAL_KEYS = {
    "conf_thres": "conf_threshold",
    "iou_thres": "iou_threshold",
    "infer_on_rect": "rect",
    "verbose": "verbose",
}


def comment(recipe: str) -> list[str]:
    """The comment that a recipe opens with, without the number signs."""
    lines = recipe_path(recipe).read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return [line.removeprefix("#").removeprefix(" ") for line in lines]


def commands(recipe: str) -> dict[str, list[str]]:
    """{"train": [arguments], "evaluate": [arguments]} of a recipe's comment; of several the first."""
    text = "\n".join(comment(recipe)).replace("\\\n", " ")
    words = [line.split() for line in text.splitlines() if line.startswith("  yolov6-ignite ")]
    return {command: arguments for _, command, *arguments in reversed(words)}


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}; a list is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@cache
def resolved(recipe: str) -> dict[str, Any]:
    return leaves(load_config(recipe).model_dump(mode="json"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_parses_and_survives_a_round_trip(recipe: str, tmp_path: Path) -> None:
    config = load_config(recipe)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_every_training_command_parses() -> None:
    modes = []
    for recipe in RECIPES:
        text = "\n".join(comment(recipe)).replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("  yolov6-ignite train "):
                config = load_config(line.split()[2], line.split()[3:])
                modes.append((config.train.fuse_ab, config.distill.teacher is not None))
    assert modes.count((True, False)) == 15
    assert modes.count((False, True)) == 17


@pytest.mark.parametrize("recipe", RECIPES)
def test_opens_with_a_comment_that_tells_how_to_run_it(recipe: str) -> None:
    text = " ".join(comment(recipe))
    assert re.search(r"\d AP at \d+ px on val2017|No AP published", text)
    assert re.search(r"\d M parameters and [\d.]+ GFLOPs deployed", text)
    name, *overrides = commands(recipe)["train"]
    assert name == recipe
    assert load_config(name, overrides).data.dataset is not None
    assert all(len(line) <= 120 for line in recipe_path(recipe).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("recipe", RECIPES)
def test_says_only_what_differs_from_its_base(recipe: str) -> None:
    path = recipe_path(recipe)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = values.pop("base", None)
    if base is None:
        assert recipe in {"yolov6n", "yolov6_lite/yolov6_lite_s"}
        return
    beside = path.parent / base
    inherited = resolved(str(beside if beside.is_file() else base))
    if recipe == "experiment/yolov6n_with_eval_params":
        values.pop("eval")  # it is there to show these settings
    repeated = [key for key, value in leaves(values).items() if inherited[key] == value]
    assert not repeated


def test_all_recipes_and_data_set_files_are_package_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    root = REPOSITORY / "configs"
    patterns = setup["options.package_data"]["yolov6_ignite.configs"].split(",")
    packaged = {path for pattern in patterns for path in root.glob(pattern.strip())}
    assert packaged == set(root.rglob("*.yaml"))


@pytest.mark.parametrize("recipe", FINETUNE)
def test_fine_tuning_changes_the_run_and_not_the_network(recipe: str) -> None:
    tuned, model = load_config(recipe), load_config(recipe.removesuffix("_finetune"))
    differences: dict[str, dict[str, Any]] = {  # in the reference too
        "base/yolov6n_base_finetune": {"use_dfl": False, "reg_max": 0},
        "base/yolov6s_base_finetune": {"use_dfl": False, "reg_max": 0},
        "base/yolov6l_base_finetune": {"anchors_init": None},
    }
    head = model.model.head.model_copy(update=differences.get(recipe, {}))
    assert tuned.model == model.model.model_copy(update={"head": head})
    nano = load_config("yolov6n_finetune")
    assert tuned.augment == nano.augment
    assert tuned.solver.model_copy(update={"reference_device_batch": 32}) == nano.solver
    given = [override for override in commands(recipe)["train"] if override.startswith("train.weights=")]
    assert (tuned.train.weights is None) == bool(given)
    assert tuned.data.batch_size == tuned.solver.reference_device_batch  # so lr0 is what the file says
    assert (tuned.data.dataset, tuned.train.epochs) == (None, model.train.epochs)
    assert (tuned.data.image_size, tuned.eval.image_size) == (model.data.image_size, model.eval.image_size)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in FINETUNE])
def test_coco_recipes_have_the_published_sizes(recipe: str) -> None:
    config = load_config(recipe)
    assert (config.data.dataset, config.solver.reference_world_size) == ("coco", 8)
    lite, p6 = recipe.startswith("yolov6_lite/"), config.model.backbone.type in {"EfficientRep6", "CSPBepBackbone_P6"}
    assert config.data.image_size == (416 if lite else 1280 if p6 else 640)
    assert config.eval.image_size == (320 if lite else None)
    assert config.solver.reference_device_batch == (16 if p6 else 32)
    assert config.train.epochs == (400 if lite else 10 if recipe in QAT else 300)


@pytest.mark.parametrize("recipe", PTQ)
def test_calibration_recipes_calibrate_the_network_as_it_is(recipe: str, shared: Path) -> None:
    config, trained = load_config(recipe), load_config(recipe.removesuffix("_ptq"))
    assert config.model_copy(update={"quant": trained.quant}) == trained
    assert (config.quant.mode, config.quant.target) == ("ptq", "tensorrt")
    qat = json.loads((shared / "spec" / "configs.json").read_text()).get(recipe.replace("_ptq", "_qat"))
    if qat is not None:
        histogram = qat["ptq"]["calib_method"] == "histogram"
        assert config.quant.method == (qat["ptq"]["histogram_amax_method"] if histogram else "max")


@pytest.mark.parametrize("recipe", QAT)
def test_quantised_training_goes_on_from_its_calibration(recipe: str) -> None:
    config = load_config(recipe, commands(recipe)["train"][1:])
    calibration = load_config(recipe.replace("_qat", "_ptq"))
    assert (config.quant.mode, config.model.scales) == ("qat", "runs/train/exp/weights/best_ckpt.pt")
    assert str(config.quant.calibrated).endswith(f"_calib_{calibration.quant.method}.pt")
    assert config.model.model_copy(update={"scales": None}) == calibration.model


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in PTQ])
def test_values_are_the_references(recipe: str, shared: Path) -> None:
    reference = json.loads((shared / "spec" / "configs.json").read_text())[recipe]
    config = load_config(recipe)
    assert config.solver.model_dump(include=set(reference["solver"])) == reference["solver"]
    assert config.augment.model_dump(include=set(reference["data_aug"])) == reference["data_aug"]

    model, ours = dict(reference["model"]), config.model.model_dump(mode="json")
    sections = {name: model.pop(name) for name in ("backbone", "neck", "head")}
    for name, section in (*sections.items(), ("model", model)):
        mine = ours[name] if name in sections else ours
        expected = {key: value for key, value in section.items() if key not in NOT_OURS.get(name, set())}
        assert {key: mine[key] for key in expected} == expected
    assert config.model.training_mode == reference.get("training_mode", "repvgg")
    for term, weight in (sections["head"].get("distill_weight") or {}).items():
        assert config.distill.weights[term] == weight

    # What the reference leaves out is off, absent, or what its loss needs.
    absent: dict[str, dict[str, Any]] = {
        "backbone": {"fuse_P2": False, "cspsppf": False, "csp_e": None, "stage_block_type": "BepC3"},
        "neck": {"num_repeats": [], "out_channels": [], "csp_e": None, "stage_block_type": "BepC3"},
        "head": {"anchors_init": None, "atss_warmup_epoch": 0},
    }
    for name, defaults in absent.items():
        for key, value in defaults.items():
            assert key in sections[name] or ours[name][key] == value
    assert "depth_multiple" in model or config.model.depth_multiple == 1.0

    weights = reference["model"]["pretrained"] if recipe in FINETUNE else None
    assert config.train.weights == (None if weights is None else Path(weights).name)
    for key, value in reference.get("eval_params", {}).items():
        assert key not in EVAL_KEYS or getattr(config.eval, EVAL_KEYS[key]) == value


def test_recipes_are_those_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "spec" / "configs.json").read_text())
    assert {*RECIPES, "experiment/eval_640_repro"} - {*PTQ} == set(reference)  # a table of sizes, no recipe


def test_evaluate_commands_reproduce_the_published_sizes(shared: Path) -> None:
    reference = json.loads((shared / "spec" / "configs.json").read_text())
    sizes = reference["experiment/eval_640_repro"]["eval_params"]
    given: dict[str, int] = {}
    for recipe in RECIPES:
        if "evaluate" in commands(recipe):
            weights, *options = commands(recipe)["evaluate"]
            assert weights == f"{Path(recipe).name}.pt"
            assert options[:2] == ["--data", "coco"]
            config = load_config(recipe, options[2:])
            assert config.eval.rect is False
            given[Path(recipe).name] = config.eval.shrink_px
    # the default is for weights without a row, and yolov6l_relu is no recipe
    assert given == {name: row["shrink_size"] for name, row in sizes.items() if name not in {"default", "yolov6l_relu"}}
