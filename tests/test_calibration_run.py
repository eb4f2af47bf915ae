from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events

from yolov6_ignite import build_training, calibration_run, train
from yolov6_ignite.calibration_run import CalibrationRun, build_calibration_run
from yolov6_ignite.checkpoint import read_checkpoint, write_weights
from yolov6_ignite.config_file import load_config
from yolov6_ignite.data import build_eval_loader, build_index
from yolov6_ignite.data.letterbox import PAD_VALUE
from yolov6_ignite.distributed import memory_format
from yolov6_ignite.errors import ConfigError, DatasetError
from yolov6_ignite.evaluation import CocoEvaluation
from yolov6_ignite.models import build_model
from yolov6_ignite.quantization import quantized_layers, quantizers
from yolov6_ignite.weights import load_model, read_weights

NAMES = ["blue", "green"]
Overrides = Callable[..., list[str]]


@pytest.fixture
def ptq(tiny_recipe: Path) -> Overrides:
    """Overrides that calibrate the weights of a fresh, tiny network on six images."""
    weights = tiny_recipe.parent / "start.pt"
    config = load_config(tiny_recipe)
    torch.manual_seed(0)
    state = build_model(config.model, len(NAMES)).state_dict()
    write_weights(weights, state=state, config=config.model_dump(mode="json"), names=NAMES, metrics={}, epoch=3)

    def overrides(*more: str) -> list[str]:
        return ["quant.mode=ptq", f"train.weights={weights}", "quant.batches=3", "quant.method=entropy", *more]

    return overrides


def build(recipe: Path, overrides: list[str]) -> CalibrationRun:
    return build_calibration_run(load_config(recipe, overrides))


def ranges(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: quantizer.amax for name, quantizer in quantizers(model)}


READ = """
import sys, torch
from yolov6_ignite.weights import load_model
model = load_model(sys.argv[1]).to(memory_format=torch.channels_last)
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


def test_a_whole_run(tiny_recipe: Path, ptq: Overrides, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolov6_ignite"):
        run = build(tiny_recipe, ptq())
        assert not run.path.exists()
        run.run()
    assert run.path == tmp_path / "runs" / "run" / "weights" / "start_calib_entropy.pt"
    assert all(quantizer.mode == "quantize" for _, quantizer in quantizers(run.model))
    content = read_checkpoint(run.path)
    assert content["names"] == NAMES
    assert content["quantization"] == run.spec.to_dict()
    assert content["config"] == run.config.model_dump(mode="json")
    assert content["metrics"].keys() >= {"val/mAP@0.5", "val/mAP@0.50:0.95"}
    assert {p.name for p in run.run_dir.rglob("*")} == {"config.yaml", "train.log", "weights", run.path.name}
    assert load_config(run.run_dir / "config.yaml") == run.config
    log = (run.run_dir / "train.log").read_text()
    for line in (
        "layers in 8 bits for onnxruntime, ranges by entropy",
        "calibrating on 6 training images",
        "mAP@0.50:0.95 0.0000 in fp32, 0.0000 quantised (+0.0000)",
        f"yolov6_ignite.export {run.path}",
        f"quant.mode=qat quant.calibrated={run.path}",
    ):
        assert line in log, line
        assert caplog.text.count(line) == 1

    images = torch.rand(2, 3, 64, 96)
    torch.save(images, tmp_path / "images.pt")
    files = [str(run.path), *(str(tmp_path / name) for name in ("images.pt", "output.pt"))]
    subprocess.run([sys.executable, "-c", READ, *files], check=True)
    with torch.no_grad():
        expected = run.model(images.to(memory_format=memory_format(torch.device("cpu"))))
    assert torch.equal(torch.load(files[2], weights_only=True), expected)
    with pytest.raises(RuntimeError, match="started before"):
        run.run()


def test_accuracies_are_those_of_the_float_and_of_the_calibrated_model(
    tiny_recipe: Path, ptq: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation is replaced by one that tells what it was given: 0.5, less 0.01 for each quantised layer."""

    def evaluate(self: CocoEvaluation, model: torch.nn.Module) -> None:
        assert not model.training
        on = {name.rsplit(".", 1)[0] for name, quantizer in quantizers(model) if quantizer.mode == "quantize"}
        self.losses = {"ap": 0.5 - 0.01 * len(on.intersection(quantized_layers(model)))}

    def scalars(self: CocoEvaluation) -> dict[str, float]:
        return {"val/mAP@0.5": self.losses["ap"] + 0.1, "val/mAP@0.50:0.95": self.losses["ap"]}

    monkeypatch.setattr(CocoEvaluation, "__call__", evaluate)
    monkeypatch.setattr(CocoEvaluation, "scalars", scalars)
    run = build(tiny_recipe, ptq("quant.sensitivity=true", "quant.method=max"))
    run.run()
    layers = quantized_layers(run.model)
    ap = 0.5 - 0.01 * len(layers)
    assert read_weights(run.path).metrics == {"val/mAP@0.5": ap + 0.1, "val/mAP@0.50:0.95": ap}
    log = (run.run_dir / "train.log").read_text()
    assert f"mAP@0.50:0.95 0.5000 in fp32, {ap:.4f} quantised ({ap - 0.5:+.4f})" in log
    rows = (run.run_dir / "sensitivity.csv").read_text().splitlines()[1:]
    assert rows == [f"{name},0.590000,0.490000,-0.010000" for name in layers]


def test_the_same_seed_gives_the_same_ranges(tiny_recipe: Path, ptq: Overrides) -> None:
    found = []
    for seed in (0, 0, 1):
        run = build(tiny_recipe, ptq(f"train.seed={seed}"))
        run.run()
        found.append(ranges(load_model(run.path)))
    first, same, other = found
    assert all(torch.equal(amax, same[name]) for name, amax in first.items())
    assert not all(torch.equal(amax, other[name]) for name, amax in first.items())


def test_images_are_those_of_training_as_the_validation_sees_them(
    tiny_recipe: Path, tiny_dataset: Path, ptq: Overrides
) -> None:
    run = build(tiny_recipe, ptq("eval.batch_size=4", "quant.batches=2", "data.rect=true"))
    seen: dict[str, torch.Tensor] = {}
    run.engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.update(zip(engine.state.batch.paths, engine.state.batch.images, strict=True)),
    )
    run.run()
    assert len(seen) == 8
    assert list(seen) == sorted(seen)
    index = build_index([tiny_dataset.parent / "images" / "train"], NAMES)
    for batch in build_eval_loader(index, image_size=64, batch_size=4, rect=False, pad=0.0):
        for path, image in zip(batch.paths, batch.images, strict=True):
            assert image.shape == (3, 64, 64)
            if path in seen:
                assert torch.equal(seen[path], image)


def test_too_few_images_are_all_used_and_that_is_said(
    tiny_recipe: Path, ptq: Overrides, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "yolov6_ignite"):
        run = build(tiny_recipe, ptq("quant.batches=40", "quant.method=max"))
    assert "quant.batches: 40 batches of 2 images are wanted; all 10 training images are used" in caplog.text
    assert sum(len(batch.images) for batch in run.loader) == 10


def test_handlers_of_the_configuration_are_left_out_and_that_is_said(
    tiny_recipe: Path, ptq: Overrides, caplog: pytest.LogCaptureFixture
) -> None:
    run = build(tiny_recipe, ptq('handlers=[{"my_project.handlers:Notifier": {}}]'))
    assert list(run.handlers) == ["calibration"]
    assert "handlers: of training, and without effect on a calibration" in caplog.text


def test_it_is_no_training(tiny_recipe: Path, ptq: Overrides) -> None:
    with pytest.raises(ConfigError, match="nothing is trained; use build_calibration_run"):
        build_training(load_config(tiny_recipe, ptq()))


def test_batch_norms_are_kept_where_there_are_no_branches(tiny_recipe: Path, ptq: Overrides) -> None:
    branches = build(tiny_recipe, ptq())
    assert not branches.spec.keep_batch_norm
    assert branches.model.backbone.stem.rbr_dense is None
    plain = load_config("repopt/yolov6n_opt", ["model.width_multiple=0.0625", "model.depth_multiple=0.1"])
    assert calibration_run._spec(plain, build_model(plain.model, 2)).keep_batch_norm


def test_partial_and_sensitivity_go_round(tiny_recipe: Path, ptq: Overrides) -> None:
    whole = build(tiny_recipe, ptq("quant.sensitivity=true", "quant.method=max"))
    whole.run()
    with (whole.run_dir / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "mAP@0.5", "mAP@0.50:0.95", "change"]
    assert sorted(row["layer"] for row in rows) == sorted(quantized_layers(whole.model))
    assert "AP with one layer quantised at a time" in (whole.run_dir / "train.log").read_text()
    assert all(quantizer.mode == "quantize" for _, quantizer in quantizers(whole.model))

    skip = f"quant.skip={whole.run_dir / 'sensitivity.csv'}"
    partial = build(tiny_recipe, ptq(skip, "quant.most_sensitive=2", "quant.method=max"))
    partial.run()
    assert partial.run_dir != whole.run_dir
    assert partial.path.name == "start_calib_max_partial.pt"
    assert partial.spec.skip == tuple(row["layer"] for row in rows[:2])
    left = quantized_layers(load_model(partial.path))
    assert set(left) == {row["layer"] for row in rows[2:]}
    with pytest.raises(ConfigError, match=r"sensitivity\.csv: .*no layer is left.*quant\.most_sensitive=N"):
        build(tiny_recipe, ptq(skip))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("quant.skip=[bakbone.stem]", ConfigError, "bakbone.stem matches no layer that can be quantised; did you mean"),
        ("quant.skip=missing.csv", ConfigError, "quant.skip: missing.csv: there is no such file"),
        ("train.weights=null", ConfigError, "train.weights: is required by quant.mode: ptq"),
        ("train.weights=missing.pt", ConfigError, "missing.pt"),
        ("data.dataset=null", ConfigError, "data.dataset is not set"),
        ("data.dataset=missing.yaml", DatasetError, "missing.yaml"),
        ("train.devices=2", ConfigError, "this process group has 1 rank"),
        ("model.width_multiple=0.125", ConfigError, "is of another network"),
        ("model.training_mode=qarepvgg", ConfigError, "is of another network"),
        ("quant.mode=none", ConfigError, "quant: method: is for quant.mode: ptq; set that, or remove it"),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_folder(
    tiny_recipe: Path, ptq: Overrides, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        build(tiny_recipe, ptq(override))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_weights_of_other_classes_or_activations(
    tiny_recipe: Path, ptq: Overrides, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(tiny_recipe, ["model.training_mode=conv_silu"])
    state = build_model(config.model, 2).state_dict()

    def weights(names: list[str]) -> str:
        file = tmp_path / "other.pt"
        write_weights(file, state=state, config=config.model_dump(mode="json"), names=names, metrics={}, epoch=3)
        return f"train.weights={file}"

    with pytest.raises(ConfigError, match="has the class 0 as 'green', the data set as 'blue': another order"):
        build(tiny_recipe, [*ptq(), "model.training_mode=conv_silu", weights(["green", "blue"])])
    for names, told in ((["blue", "lime"], True), (["0", "1"], False)):
        caplog.clear()
        build(tiny_recipe, [*ptq(), "model.training_mode=conv_silu", weights(names)])
        assert ("has the class 1 as 'lime', the data set as 'green'" in caplog.text) == told
    with pytest.raises(ConfigError, match=r"trained with model\.training_mode: conv_silu, not conv_relu"):
        build(tiny_recipe, [*ptq(), "model.training_mode=conv_relu", weights(NAMES)])


def test_the_size_is_that_of_the_evaluation(tiny_recipe: Path, ptq: Overrides) -> None:
    run = build(tiny_recipe, ptq("eval.image_size=96", "eval.shrink_px=32", "quant.method=max"))
    (batch, *_) = run.loader
    assert batch.images.shape[2:] == (96, 96)
    assert (batch.images[..., :16] == PAD_VALUE).all()  # 64 px wide inside
    assert not (batch.images[..., 16:32] == PAD_VALUE).all()


def test_a_signal_ends_it_with_a_message(
    tiny_recipe: Path, ptq: Overrides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = calibration_run.to_model_input

    def interrupted(*args: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args)

    monkeypatch.setattr(calibration_run, "to_model_input", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert train.main([str(tiny_recipe), *ptq()]) == 75
    assert "the calibration was interrupted; start it again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tiny_recipe.parent / "runs" / "run" / "stopped.json").is_file()


def test_a_failure_leaves_no_file_and_the_model_as_it_was(
    tiny_recipe: Path, ptq: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tiny_recipe, ptq())
    monkeypatch.setattr(calibration_run, "to_model_input", lambda images, device: torch.zeros(images.shape))
    broken = build(tiny_recipe, ptq("train.name=broken"))
    with pytest.raises(
        ConfigError, match=r"stem\.rbr_reparam\.input_quantizer: no value other than 0 was seen"
    ) as caught:
        broken.run()
    assert caught.value.on_all_ranks  # it is about what all ranks saw: one tells
    assert (broken.run_dir / "stopped.json").is_file()

    def fail(images: Any, device: torch.device) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(calibration_run, "to_model_input", fail)
    with pytest.raises(OSError, match="gone"):
        run.run()
    for failed in (run, broken):
        assert list((failed.run_dir / "weights").iterdir()) == []
        for _, quantizer in quantizers(failed.model):
            assert quantizer.mode == "off"
            assert quantizer.observer is None
            assert not quantizer.amax.any()


def _calibrate_on_a_rank(local_rank: int, recipe: str, overrides: list[str], folder: str) -> None:
    run = build(Path(recipe), overrides)
    images: list[str] = []
    run.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: images.extend(engine.state.batch.paths))
    run.run()
    torch.save({"run": str(run.run_dir), "images": images, "ranges": ranges(run.model)}, f"{folder}/{local_rank}.pt")


def test_two_ranks_make_one_file_of_what_both_saw(
    tiny_recipe: Path, ptq: Overrides, tmp_path: Path, free_port: int
) -> None:
    more = ["quant.method=max", "quant.sensitivity=true"]
    with idist.Parallel("gloo", nproc_per_node=2, master_addr="127.0.0.1", master_port=free_port) as parallel:
        parallel.run(_calibrate_on_a_rank, str(tiny_recipe), ptq(*more, "train.devices=2"), str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["run"] == second["run"] == str(tmp_path / "runs" / "run")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert len(first["images"]) + len(second["images"]) == len({*first["images"], *second["images"]}) == 6
    alone = build(tiny_recipe, ptq(*more))
    alone.run()
    written = ranges(load_model(Path(first["run"]) / "weights" / "start_calib_max.pt"))
    for name, amax in ranges(alone.model).items():
        for found in (first["ranges"][name], second["ranges"][name], written[name]):
            assert torch.equal(found, amax), name
    metrics = [read_weights(run / "weights" / alone.path.name).metrics for run in (Path(first["run"]), alone.run_dir)]
    assert metrics[0] == metrics[1]
    table = [(run / "sensitivity.csv").read_text() for run in (Path(first["run"]), alone.run_dir)]
    assert table[0] == table[1]


def test_the_seeded_choice_does_not_depend_on_batches(tiny_recipe: Path, ptq: Overrides) -> None:
    few, many = (build(tiny_recipe, ptq(f"quant.batches={n}")) for n in (1, 3))
    chosen = [{path for batch in run.loader for path in batch.paths} for run in (few, many)]
    assert [len(paths) for paths in chosen] == [2, 6]
    assert chosen[0] < chosen[1]
