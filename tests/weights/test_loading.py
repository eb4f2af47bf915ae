"""Models from weight files of either kind, and weights into models."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import save_official
from torch import Tensor

from yolov6_ignite import convert
from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model
from yolov6_ignite.weights import load_matching_weights, load_model, load_model_and_config, read_weights

SMALL = ["model.width_multiple=0.125", "model.depth_multiple=0.1"]
IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SILU = {"backbone.stem": "ConvBNSiLU"}


@pytest.fixture
def official(tmp_path: Path) -> Callable[..., tuple[Path, Detector]]:
    """Writes a small network of a recipe as an official file; returns it with the network."""

    def make(
        recipe: str = "yolov6n",
        *overrides: str,
        classes: int = 3,
        heads: dict[str, bool] | None = None,
        **content: object,
    ) -> tuple[Path, Detector]:
        torch.manual_seed(1)
        model = build_model(load_config(recipe, [*SMALL, *overrides]).model, classes, **(heads or {}))
        for name, parameter in model.named_parameters():
            if "_preds" in name and name.endswith("weight"):  # fresh ones are zero: they hide everything before them
                torch.nn.init.normal_(parameter)
        model.half().float()  # what the file can hold
        path = tmp_path / "official.pt"
        save_official(path, model.state_dict(), **content)
        return path, model

    return make


def predictions(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


@pytest.mark.parametrize("name", ["yolov6n", "yolov6_lite_s"])
def test_released_format_holds_the_reference_numbers(name: str, shared: Path) -> None:
    golden = {"yolov6n": "yolov6n__plain", "yolov6_lite_s": "yolov6_lite__yolov6_lite_s__plain"}[name]
    (expected,) = json.loads((shared / "golden/models" / f"{golden}.json").read_text())["eval"]
    images = np.random.Generator(np.random.PCG64(20260101)).random((2, 3, 128, 192), dtype=np.float32)
    for deploy in (False, True):
        model = load_model(shared / "golden/official" / f"{name}.pt", deploy=deploy)
        assert not model.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())
        with torch.no_grad():
            flat = model(torch.from_numpy(images)).flatten().double()
        samples = flat[torch.from_numpy(np.linspace(0, len(flat) - 1, 64).astype(int))]
        errors = (samples - torch.tensor(expected["samples"], dtype=torch.float64)).abs() / expected["abs_mean"]
        assert errors.max() <= 1e-2
        assert abs(flat.mean().item() - expected["mean"]) <= 1e-2 * expected["abs_mean"]


def test_an_official_file_is_ready_to_use(official: Callable[..., tuple[Path, Detector]]) -> None:
    path, model = official(names=["a", "b", "c"])
    loaded = load_model(path)
    assert (loaded.names, loaded.stride) == (["a", "b", "c"], 32)
    assert torch.equal(predictions(loaded), predictions(model))


@pytest.mark.parametrize("head", ["fuse_ab", "distill_ns"])
def test_the_head_is_the_files(head: str, official: Callable[..., tuple[Path, Detector]]) -> None:
    dfl = ["model.head.use_dfl=true", "model.head.reg_max=16"]
    path, model = official("yolov6n", *dfl, heads={head: True})
    loaded = load_model(path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(predictions(loaded), predictions(model))


def test_activations_are_told_by_the_pickled_classes(official: Callable[..., tuple[Path, Detector]]) -> None:
    path, model = official("yolov6l", "model.training_mode=conv_silu", classes=2)
    save_official(path, model.state_dict(), classes=SILU)
    assert torch.equal(predictions(load_model(path)), predictions(model))
    save_official(path, model.state_dict(), classes={"backbone.stem": "ConvBNReLU"})
    assert not torch.equal(predictions(load_model(path)), predictions(model))


def test_a_given_recipe_is_used(official: Callable[..., tuple[Path, Detector]], tmp_path: Path) -> None:
    path, model = official()
    recipe = tmp_path / "small.yaml"
    recipe.write_text("base: yolov6n\nmodel: {type: mine, width_multiple: 0.125, depth_multiple: 0.1}\n")
    assert read_weights(path, recipe=recipe).config.model.type == "mine"
    assert torch.equal(predictions(load_model(path, recipe=recipe)), predictions(model))
    with pytest.raises(
        ConfigError, match=r"do not fit their recipe.* of another shape \(.*, .*, .*, \.\.\.\)"
    ) as caught:
        load_model(path, recipe="yolov6s")
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    ("overrides", "classes", "message"),
    [
        ({"width_multiple": 1e4}, 3, "do not fit .* more blocks or channels"),
        ({"width_multiple": 1e300}, 3, "do not fit .* more blocks or channels"),
        ({"depth_multiple": 1e9}, 3, "do not fit .* more blocks or channels"),
        ({"depth_multiple": 1.7e308}, 3, "do not fit"),
        ({"width_multiple": 4.0}, 3, r"do not fit .*: \d+ of another shape"),
        ({"depth_multiple": 1.0}, 3, r"do not fit .*: \d+ missing"),
        ({}, 2, r"do not fit their recipe or class names: 6 of another shape \(detect\.cls_preds\.0\.bias, "),
        ({}, 500_000, "do not fit their recipe or class names: 6 of another shape"),
    ],
)
def test_a_recipe_that_asks_for_more_than_its_weights_is_not_built(
    overrides: dict[str, float], classes: int, message: str, tmp_path: Path
) -> None:
    config = load_config("yolov6n", SMALL)
    state = build_model(config.model, 3).state_dict()
    written = config.model_dump(mode="json")
    written["model"] |= overrides
    path = tmp_path / "own.pt"
    write_weights(path, state=state, config=written, names=["x"] * classes, metrics={}, epoch=1)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("recipe", "size_px"), [("yolov6n", 640), ("yolov6n6", 1280)])
def test_the_image_size_of_a_network_of_no_recipe(
    recipe: str, size_px: int, official: Callable[..., tuple[Path, Detector]]
) -> None:
    path, _ = official(recipe)
    config = load_model_and_config(path)[1]
    assert (config.model.width_multiple, config.data.image_size) == (1.0, size_px)  # 0.125 in a recipe


def test_class_names_that_a_file_lacks(official: Callable[..., tuple[Path, Detector]]) -> None:
    assert load_model(official(classes=80)[0]).names[:2] == ["person", "bicycle"]
    assert load_model(official(classes=2)[0]).names == ["0", "1"]


def test_an_unknown_network_is_named(official: Callable[..., tuple[Path, Detector]]) -> None:
    path, model = official()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("neck.Rep_n4")}
    save_official(path, state)
    with pytest.raises(ConfigError, match=r"official\.pt: neck\.Rep_n4"):
        load_model(path)


def test_weights_of_another_number_of_classes(
    official: Callable[..., tuple[Path, Detector]], caplog: pytest.LogCaptureFixture
) -> None:
    path, source = official(classes=80)
    model = build_model(load_config("yolov6n", SMALL).model, 2)
    with caplog.at_level(logging.INFO):
        load_matching_weights(model, path)
    own, given = model.state_dict(), source.state_dict()
    other = [key for key in own if "cls_preds" in key]
    assert len(other) == 6
    assert all(torch.equal(own[key], given[key]) for key in own if key not in other)
    listed = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(listed) == 2
    assert all(key in line for key in other for line in listed)


def test_half_of_the_model_is_enough(tmp_path: Path) -> None:
    config = load_config("yolov6n", SMALL)
    path = tmp_path / "part.pt"
    own = build_model(config.model, 3).state_dict()
    assert len(own) % 2
    for count in (len(own) // 2, len(own) // 2 + 1):
        part = dict(list(own.items())[:count])
        write_weights(path, state=part, config=config.model_dump(mode="json"), names=list("abc"), metrics={}, epoch=1)
        model = build_model(config.model, 3)
        if 2 * count < len(own):
            with pytest.raises(ConfigError, match=f"is of another model: only {count} of {len(own)} entries fit"):
                load_matching_weights(model, path)
        else:
            load_matching_weights(model, path)


@pytest.mark.parametrize("head", ["fuse_ab", "distill_ns"])
def test_entries_that_only_the_file_has_are_listed(
    head: str, official: Callable[..., tuple[Path, Detector]], caplog: pytest.LogCaptureFixture
) -> None:
    dfl = ["model.head.use_dfl=true", "model.head.reg_max=16"]
    path, source = official("yolov6n", *dfl, heads={head: True})
    model = build_model(load_config("yolov6n", SMALL).model, 3)
    with caplog.at_level(logging.WARNING):
        load_matching_weights(model, path)
    own, given = model.state_dict(), source.state_dict()
    extra = sorted(given.keys() - own.keys())
    assert extra
    (line,) = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert all(key in line for key in extra)
    assert all(torch.equal(own[key], given[key]) for key in own if own[key].shape == given[key].shape)


def test_weights_of_another_model_are_refused(official: Callable[..., tuple[Path, Detector]]) -> None:
    path, _ = official()
    with pytest.raises(ConfigError, match="is of another model: only"):
        load_matching_weights(build_model(load_config("yolov6_lite/yolov6_lite_s").model, 3), path)


def test_convert(
    official: Callable[..., tuple[Path, Detector]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = official(names=["a", "b", "c"])
    output = tmp_path / "ours.pt"
    assert convert.main([str(path), str(output)]) == 0
    assert "3 classes" in capsys.readouterr().out
    torch.load(output, weights_only=True)
    loaded, config = load_model_and_config(output)
    assert torch.equal(predictions(loaded), predictions(model))
    assert (loaded.names, config.data.image_size) == (["a", "b", "c"], 640)

    before = output.read_bytes()
    for arguments, message in (
        ([path, output], "is there already"),
        ([path, tmp_path / "no" / "x.pt"], "there is no folder"),
        ([tmp_path / "absent.pt", tmp_path / "x.pt"], "no such weight file"),
        ([output, tmp_path / "x.pt", "--recipe", "yolov6n"], "carries its own recipe"),
    ):
        assert convert.main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
    assert output.read_bytes() == before


def test_converted_again_nothing_changes(official: Callable[..., tuple[Path, Detector]], tmp_path: Path) -> None:
    path, _ = official()
    assert convert.main([str(path), str(tmp_path / "1.pt")]) == 0
    assert convert.main([str(tmp_path / "1.pt"), str(tmp_path / "2.pt")]) == 0
    once, twice = read_weights(tmp_path / "1.pt"), read_weights(tmp_path / "2.pt")
    assert once.config == twice.config
    assert all(torch.equal(once.state[key], twice.state[key]) for key in once.state)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("kind", ["input", "weight"])
def test_ranges_of_a_quantised_file_must_be_ranges(kind: str, value: float, tmp_path: Path) -> None:
    config = load_config("yolov6n", ["model.width_multiple=0.0625", "model.depth_multiple=0.1"])
    spec = QuantizationSpec()
    model = quantized_model(build_model(config.model, 2).eval(), spec)
    calibrate(model, [torch.rand(1, 3, 64, 64)], spec)
    model.get_submodule(f"backbone.stem.rbr_reparam.{kind}_quantizer").amax.fill_(value)
    file = tmp_path / "calibrated.pt"
    saved = {"config": config.model_dump(mode="json"), "names": ["a", "b"], "metrics": {}, "epoch": 0}
    write_weights(file, state=model.state_dict(), quantization=spec.to_dict(), **saved)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=rf"calibrated\.pt: calibration: backbone\.stem\..*{kind}_quantizer: .*not finite"
    ):
        load_model(file)


@pytest.mark.parametrize("value", [[], {"bits": "8"}, {"percentile": 10**400}, {"skip": "neck.*"}, {"more": 1}])
def test_a_specification_of_something_else_is_refused(value: object, tmp_path: Path) -> None:
    config = load_config("yolov6n", ["model.width_multiple=0.0625", "model.depth_multiple=0.1"])
    file = tmp_path / "calibrated.pt"
    saved = {"config": config.model_dump(mode="json"), "names": ["a", "b"], "metrics": {}, "epoch": 0}
    state = build_model(config.model, 2).state_dict()
    write_weights(file, state=state, quantization=value, **saved)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"calibrated\.pt: .*quantisation|calibrated\.pt: quantization"):
        load_model(file)
