"""The family's costs and published numbers: the table, the recipes' comments and the networks agree."""

from __future__ import annotations

import csv
import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from yolov6_ignite import cli, family, models
from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config, recipe_names, recipe_path
from yolov6_ignite.family import MODELS, PUBLISHED, model_rows
from yolov6_ignite.models import Detector, build_model, count_parameters, gflops
from yolov6_ignite.models.deploy import deployed

with (Path(__file__).parent / "data" / "costs.csv").open() as file:
    COSTS = {(row["recipe"], row["head"]): row for row in csv.DictReader(file)}
DFL16 = ("model.head.use_dfl=true", "model.head.reg_max=16")


class Cost(NamedTuple):
    trained: int
    deployed: int
    gflops: float


@cache
def built(network: str, head: str) -> Detector:
    """Recipes share networks: each is built once."""
    with torch.device("meta"):
        return build_model(
            ModelConfig.model_validate_json(network), 80, fuse_ab=head == "fuse_ab", distill_ns=head == "distill_ns"
        )


@cache
def counted(network: str, size_px: int) -> Cost:
    model = built(network, "plain")
    deployed = model.deploy()
    return Cost(count_parameters(model), count_parameters(deployed), gflops(deployed, size_px))


def network(recipe: str, *overrides: str) -> str:
    return load_config(recipe, overrides).model.model_copy(update={"type": ""}).model_dump_json()


@pytest.mark.parametrize(("recipe", "head"), [key for key in COSTS if key[1] in {"plain", "dfl16"}])
def test_networks_cost_what_the_references_do(recipe: str, head: str) -> None:
    row = COSTS[recipe, head]
    cost = counted(network(recipe, *DFL16 if head == "dfl16" else ()), int(row["image_size"]))
    assert cost.trained == int(row["parameters_train"])
    mode = load_config(recipe).model.training_mode
    if mode in {"qarepvggv2", "hyper_search", "repopt"} or "lite" in recipe:
        assert cost.deployed < int(row["parameters_deploy"])  # batch norms and branches are folded that it keeps
    else:
        assert cost.deployed == int(row["parameters_deploy"])
    if mode == "hyper_search":
        assert cost.gflops < float(row["gflops_deploy"])
    else:
        assert cost.gflops == pytest.approx(float(row["gflops_deploy"]), rel=1e-3)


@pytest.mark.parametrize(("recipe", "head"), [key for key in COSTS if key[1] not in {"plain", "dfl16"}])
def test_heads_for_training_cost_what_the_references_do(recipe: str, head: str) -> None:
    key = network(recipe, *DFL16 if head.endswith("dfl16") else ())
    model, plain = (built(key, name) for name in (head.removesuffix("_dfl16"), "plain"))
    assert count_parameters(model) == int(COSTS[recipe, head]["parameters_train"])
    # A deployed head keeps what it predicts with, and the two differ in nothing but their heads.
    extra = count_parameters(deployed(model.detect)) - count_parameters(deployed(plain.detect))
    assert extra == 0 if head.startswith("fuse_ab") else extra <= 0


@pytest.mark.parametrize("recipe", sorted({recipe for recipe, _ in COSTS}))
def test_comments_have_the_numbers_of_the_table(recipe: str) -> None:
    text = recipe_path(recipe).read_text(encoding="utf-8").split("\n\n", 1)[0].replace("\n# ", " ")
    config, published = load_config(recipe), PUBLISHED.get(recipe)
    size_px = config.eval.image_size or config.data.image_size
    assert isinstance(size_px, int)
    cost = counted(network(recipe), size_px)
    (written,) = re.findall(r"([\d.]+) M parameters and ([\d.]+) GFLOPs deployed(?: at (\d+) px)?", text)
    assert written == (f"{cost.deployed / 1e6:.2f}", f"{cost.gflops:.2f}", "" if published else str(size_px))
    ap = re.findall(r"([\d.]+) AP at (\d+) px on val2017", text)
    fps = re.findall(r"(\d+) FPS at batch 1 on a T4", text)
    if published is None:
        assert (ap, fps) == ([], [])
        assert "No AP published" in text
    else:
        assert ap == [(str(published.ap), str(published.image_size_px))]
        assert published.image_size_px == size_px
        assert fps == ([] if published.fps_t4 is None else [str(published.fps_t4)])


def test_every_model_is_in_the_table_once() -> None:
    others = set(recipe_names()) - set(MODELS)
    assert len(set(MODELS)) == len(MODELS)
    assert {name for name in others if not name.endswith(("_finetune", "_ptq", "_qat"))} == {"custom", "quickstart"}
    assert set(PUBLISHED) <= set(MODELS) | {name for name in others if name.endswith(("_ptq", "_qat"))}


def test_models_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MODELS", ("yolov6n", "yolov6n6", "yolov6_lite/yolov6_lite_s", "repopt/yolov6n_opt"))
    assert cli.main(["models", "--json", str(tmp_path / "models.json")]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    titles = ("recipe", "size px", "stride", "params M", "GFLOPs", "AP", "FPS T4", "published with")
    assert tuple(re.split(r"\s{2,}", header)) == titles
    ends = [header.index(title) + len(title) for title in titles[1:7]]
    assert all([line[:end].split()[-1] for end in ends] == line.split()[1:7] for line in lines)  # below their titles
    assert [line.split() for line in lines] == [
        ["yolov6n", "640", "32", "4.65", "11.32", "37.5", "779", "YOLOv6", "4.0"],
        ["yolov6n6", "1280", "64", "10.37", "49.33", "44.9", "228", "YOLOv6", "4.0"],
        ["yolov6_lite/yolov6_lite_s", "320", "64", "0.55", "0.54", "22.4", "-", "YOLOv6", "4.0"],
        ["repopt/yolov6n_opt", "640", "32", "4.32", "11.04", "-", "-", "-"],
    ]
    nano, *_, optimised = json.loads((tmp_path / "models.json").read_text())
    assert nano == {
        "recipe": "yolov6n",
        "image_size_px": 640,
        "stride": 32,
        "parameters": 4_646_974,
        "gflops": pytest.approx(11.316, abs=1e-3),
        "published": {"ap": 37.5, "image_size_px": 640, "fps_t4": 779, "source": "YOLOv6 4.0"},
    }
    assert optimised["published"] is None


def test_all_adds_the_other_recipes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MODELS", ("yolov6n",))
    monkeypatch.setattr(family, "recipe_names", lambda: ["custom", "yolov6n", "yolov6n_finetune"])
    assert cli.main(["models", "--all"]) == 0
    recipes = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert recipes == ["recipe", "yolov6n", "custom", "yolov6n_finetune"]


def test_a_network_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[ModelConfig] = []

    def build(config: ModelConfig, num_classes: int) -> Detector:
        networks.append(config)
        return build_model(config, num_classes)

    monkeypatch.setattr(models, "build_model", build)
    first, second, other = model_rows(["yolov6n", "yolov6n_finetune", "quickstart"])
    assert len(networks) == 2
    assert first[2:5] == second[2:5] != other[2:5]


def test_an_unwritable_file_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MODELS", ("quickstart",))
    assert cli.main(["models", "--json", "/dev/null/models.json"]) == 2
    assert capsys.readouterr().err.startswith("error: /dev/null/models.json")
