"""Quantisation-aware training from a calibrated file to its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from test_training import assert_equal, state_of
from test_training_modes import ONE_EPOCH, REPOPT_NECK, rows, run, stopped_and_resumed, weights
from torch import Tensor

from yolov6_ignite import build_training, load_model, train
from yolov6_ignite.checkpoint import read_checkpoint, write_checkpoint
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.optim import build_schedule
from yolov6_ignite.quantization import quantizers
from yolov6_ignite.weights import read_weights

Calibrate = Callable[..., Path]
EVERY_STEP = "solver.nominal_batch_size=4"  # no accumulation: 12 steps of the optimizer


@pytest.fixture
def calibrate(tiny_recipe: Path) -> Calibrate:
    """Calibrates a checkpoint by the command; returns the calibrated file."""

    def calibrated(source: Path, *overrides: str) -> Path:
        given = ["train.name=calibration", f"train.weights={source}", "quant.mode=ptq", *overrides]
        assert train.main([str(tiny_recipe), *given]) == 0
        (file,) = (tiny_recipe.parent / "runs" / "calibration" / "weights").iterdir()
        return file

    return calibrated


def ranges(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.endswith((".amax", ".negative"))}


def test_ranges_stay_and_every_checkpoint_quantises(tiny_recipe: Path, calibrate: Calibrate) -> None:
    source = run(tiny_recipe, "float", *ONE_EPOCH)
    file = calibrate(weights(source))
    given = [f"quant.calibrated={file}", "quant.mode=qat", "solver.lr0=0.001", EVERY_STEP]
    training = run(tiny_recipe, "qat", *given)
    calibrated = read_checkpoint(file)
    expected = ranges(calibrated["model"])
    assert expected
    last = read_checkpoint(weights(training, "last_ckpt"))
    for state in (last["model"], last["ema"], read_checkpoint(weights(training, "final"))["model"]):
        assert_equal(ranges(state), expected)
    assert last["quantization"] == calibrated["quantization"]
    moved = [key for key in calibrated["model"] if not torch.equal(calibrated["model"][key], last["model"][key])]
    assert any(key.endswith("rbr_reparam.weight") for key in moved)

    final = weights(training, "final")
    assert {value.dtype for value in read_checkpoint(final)["model"].values()} == {torch.float32, torch.bool}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load_model(final)(images), training.ema_model(images), rtol=0, atol=0)
        folded = load_model(final, deploy=True)(images)
    torch.testing.assert_close(folded, load_model(final)(images), rtol=1e-4, atol=1e-3)
    assert {quantizer.mode for _, quantizer in quantizers(load_model(final))} == {"quantize"}
    assert train.main(["--explain", str(tiny_recipe), *given]) == 0


def test_resumes_as_if_it_had_not_stopped(tiny_recipe: Path, calibrate: Calibrate) -> None:
    source = run(tiny_recipe, "float", *ONE_EPOCH)
    file = calibrate(weights(source), "quant.target=tensorrt")
    given = [f"quant.calibrated={file}", "quant.mode=qat", "solver.lr0=0.001"]
    whole = run(tiny_recipe, "whole", *given)
    resumed = stopped_and_resumed(tiny_recipe, *given)
    assert_equal(state_of(resumed.run_dir), state_of(whole.run_dir))
    assert read_checkpoint(weights(resumed, "last_ckpt"))["quantization"]["target"] == "tensorrt"


def test_rep_optimizer_keeps_its_batch_norms_and_learns_from_a_teacher(tiny_recipe: Path, calibrate: Calibrate) -> None:
    search = run(tiny_recipe, "search", *REPOPT_NECK, *ONE_EPOCH, "model.training_mode=hyper_search")
    given = [*REPOPT_NECK, "model.training_mode=repopt"]
    scales = f"model.scales={weights(search)}"
    source = run(tiny_recipe, "float", *given, scales, *ONE_EPOCH)
    file = calibrate(weights(source), *given)
    assert read_weights(file).quantization.keep_batch_norm  # type: ignore[union-attr]
    qat = [*given, "quant.mode=qat", f"quant.calibrated={file}", "solver.lr0=0.001"]
    with pytest.raises(ConfigError, match=r"model\.scales: is required"):
        run(tiny_recipe, "qat", *qat)
    taught = [f"distill.teacher={weights(source)}", "distill.features=true", "quant.freeze_batch_norm_after=1"]
    training = build_training(load_config(tiny_recipe, ["train.name=qat", EVERY_STEP, *qat, scales, *taught]))
    means: list[Tensor] = []

    @training.engine.on(Events.EPOCH_COMPLETED)
    def keep(engine: Engine) -> None:
        state = training.model.state_dict()
        means.append(torch.cat([state[key] for key in state if key.endswith("running_mean")]))

    training.run()
    first, *others = means
    calibrated = read_checkpoint(file)["model"]
    assert not torch.equal(first, torch.cat([calibrated[key] for key in calibrated if key.endswith("running_mean")]))
    assert all(torch.equal(mean, first) for mean in others)
    assert len(others) == 3
    assert float(rows(training)[-1]["train/cwd_loss"]) > 0
    last = read_checkpoint(weights(training, "last_ckpt"))["model"]
    assert_equal(ranges(last), ranges(read_checkpoint(file)["model"]))
    assert training.optimizer.gradient_masks  # type: ignore[attr-defined]


def test_two_ranks_keep_the_ranges(tiny_recipe: Path, calibrate: Calibrate) -> None:
    file = calibrate(weights(run(tiny_recipe, "float", *ONE_EPOCH)))
    given = ["quant.mode=qat", f"quant.calibrated={file}", "solver.lr0=0.001", EVERY_STEP, "train.epochs=2"]
    assert train.main([str(tiny_recipe), *given, "train.name=two", "train.devices=2"]) == 0
    last = read_checkpoint(tiny_recipe.parent / "runs" / "two" / "weights" / "last_ckpt.pt")
    assert last["world_size"] == 2
    calibrated = read_checkpoint(file)["model"]
    for state in (last["model"], last["ema"]):
        assert_equal(ranges(state), ranges(calibrated))
        assert not torch.equal(
            state["backbone.stem.rbr_reparam.weight"], calibrated["backbone.stem.rbr_reparam.weight"]
        )


def test_there_is_no_warm_up() -> None:
    qat = load_config("repopt/yolov6n_opt_qat")
    schedule = build_schedule(qat, 100)
    assert schedule.warmup_iterations == 0
    assert schedule.at(0).lr == pytest.approx((schedule.lr0,) * 3)
    assert build_schedule(load_config("repopt/yolov6n_opt"), 100).warmup_iterations == 1000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant.mode=qat"], "quant.calibrated: is required by quant.mode: qat"),
        (["quant.mode=qat", "quant.calibrated={source}"], "is not calibrated; make one of it with quant.mode=ptq"),
        (["quant.mode=qat", "quant.calibrated={file}", "model.width_multiple=0.125"], "of another network"),
        (["quant.mode=qat", "quant.calibrated=none.pt"], "none.pt"),
        (["train.weights={file}"], "is quantised; give the weights that it was made from"),
        (["quant.mode=ptq"], "train.weights: is required by quant.mode: ptq"),
        (["quant.mode=ptq", "train.weights={file}"], "is quantised already"),
        (["quant.mode=ptq", "train.weights={source}", "model.width_multiple=0.125"], "of another network"),
    ],
)
def test_files_that_cannot_be_used(
    overrides: list[str], message: str, tiny_recipe: Path, calibrate: Calibrate, capsys: pytest.CaptureFixture[str]
) -> None:
    source = weights(run(tiny_recipe, "float", *ONE_EPOCH))
    file = calibrate(source)
    capsys.readouterr()
    given = [override.format(source=source, file=file) for override in overrides]
    assert train.main([str(tiny_recipe), "train.name=refused", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error")]) == 1
    assert not (tiny_recipe.parent / "runs" / "refused").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant": {"mode": "qat", "method": "mse"}}, "method: is for quant.mode: ptq; remove it"),
        ({"quant": {"sensitivity": True}}, "sensitivity: is for quant.mode: ptq; set that"),
        ({"quant": {"calibrated": "a.pt"}}, "calibrated: is for quant.mode: qat"),
        ({"quant": {"mode": "ptq", "most_sensitive": 3}}, "most_sensitive: counts the lines of a file"),
        ({"quant": {"mode": "ptq", "percentile": 12}}, "percentile: is for method: percentile, not max"),
        ({"quant": {"mode": "ptq", "sensitivity": True, "skip": ["a"]}}, "sensitivity: is measured of every layer"),
        ({"quant": {"mode": "qat"}, "train": {"weights": "a.pt"}}, "train.weights: does not go with quant.mode: qat"),
        ({"quant": {"mode": "qat"}, "data": {"batch_size": "auto"}}, "data.batch_size: does not go with"),
        ({"quant": {"mode": "ptq"}, "train": {"resume": "auto"}}, "train.resume: does not go with quant.mode: ptq"),
        ({"quant": {"mode": "ptq"}, "train": {"find_lr": True}}, "train.find_lr: does not go with quant.mode: ptq"),
    ],
)
def test_contradictions_are_refused_when_parsing(section: dict[str, Any], message: str) -> None:
    model = load_config("yolov6n").model
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"model": model, **section})


@pytest.mark.parametrize(
    ("quantization", "message"),
    [(None, "NoneType"), ({"skip": ["neck.*"]}, "do not fit its quantisation"), ({"bits": 99}, "bits: 99")],
)
def test_a_resumed_checkpoint_must_say_what_is_quantised(
    quantization: dict[str, Any] | None, message: str, tiny_recipe: Path, calibrate: Calibrate
) -> None:
    file = calibrate(weights(run(tiny_recipe, "float", *ONE_EPOCH)))
    given = ["quant.mode=qat", f"quant.calibrated={file}", "solver.lr0=0.001", *ONE_EPOCH]
    last = weights(run(tiny_recipe, "qat", *given), "last_ckpt")
    write_checkpoint(last, {**read_checkpoint(last), "quantization": quantization})
    with pytest.raises(ConfigError, match=f"the checkpoint to resume from: .*{message}.*use an earlier one"):
        run(tiny_recipe, "qat", *given, "train.epochs=2", "train.resume=auto")


def test_a_learning_rate_from_scratch_is_warned_of(
    tiny_recipe: Path, calibrate: Calibrate, caplog: pytest.LogCaptureFixture
) -> None:
    file = calibrate(weights(run(tiny_recipe, "float", *ONE_EPOCH)), "solver.lr0=0.01")
    given = ["quant.mode=qat", f"quant.calibrated={file}", *ONE_EPOCH]
    for rate, warned in (("0.01", True), ("0.001", False)):
        caplog.clear()
        run(tiny_recipe, "qat", *given, f"solver.lr0={rate}")
        assert ("of a training from scratch" in caplog.text) == warned
        assert "layers in 8 bits for onnxruntime, ranges by max; mAP@0.50:0.95" in caplog.text
