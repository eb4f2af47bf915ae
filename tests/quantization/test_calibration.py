from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from yolov6_ignite.handlers import ModelEMA
from yolov6_ignite.handlers.events import TrainEvents

from yolov6_ignite.checkpoint import read_checkpoint, write_checkpoint
from yolov6_ignite.config_file import apply_overrides, load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.quantization import (
    Calibrator,
    QuantizationSpec,
    calibrate,
    check_calibrated,
    configure_quantizers,
    quantized_model,
    quantizers,
    set_mode,
)

Build = Callable[[str], Detector]
Images = Callable[..., Tensor]


def noise_ratio_db(actual: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (actual - expected).square().sum()))


@pytest.mark.parametrize("method", ["max", "entropy", "percentile", "mse"])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_eight_bits_are_near_fp32(build_small: Build, images_of: Images, method: str, target: str) -> None:
    model = build_small("repopt/yolov6n_opt")
    spec = QuantizationSpec(method=method, target=target)  # type: ignore[arg-type]
    quantized = quantized_model(model, spec)
    batches = [images_of(model, seed) for seed in range(3)]
    calibrate(quantized, batches, spec)
    images = images_of(model, 9)
    with torch.no_grad():
        expected, actual = model(images), quantized(images)
    assert not torch.equal(actual, expected)
    assert noise_ratio_db(actual[..., :4], expected[..., :4]) > 20
    assert noise_ratio_db(actual[..., 5:], expected[..., 5:]) > 20


def test_every_kind_of_network_is_calibrated(family_member: tuple[Detector, bool], images_of: Images) -> None:
    model, keep_batch_norm = family_member
    spec = QuantizationSpec(method="max", keep_batch_norm=keep_batch_norm)
    quantized = quantized_model(model, spec)
    calibrate(quantized, [images_of(model)], spec)
    check_calibrated(quantized)
    groups: dict[int, set[float]] = {}
    for _, quantizer in quantizers(quantized):
        if quantizer.kind != "weight":
            groups.setdefault(quantizer.group, set()).add(float(quantizer.amax))
    assert all(len(ranges) == 1 for ranges in groups.values())
    images = images_of(model, 9)
    with torch.no_grad():
        expected, actual = model(images), quantized(images)
    assert noise_ratio_db(actual[..., :4], expected[..., :4]) > 18


def test_max_is_the_largest_value_of_all_batches(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    spec = QuantizationSpec(method="max")
    quantized = quantized_model(model, spec)
    batches = [images_of(model), 3 * images_of(model, 1), images_of(model, 2)]
    calibrate(quantized, iter(batches), spec)
    stem = quantized.backbone.stem.rbr_reparam.input_quantizer
    assert float(stem.amax) == float(batches[1].max())
    assert not stem.negative
    assert quantized.detect.cls_preds[0].input_quantizer.negative


def test_joined_maps_share_a_range_and_rectified_ones_stay_unsigned(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    spec = QuantizationSpec(target="onnxruntime", method="max")
    quantized = quantized_model(model, spec)
    calibrate(quantized, [images_of(model)], spec)
    found = dict(quantizers(quantized))
    fusion = "neck.Bifusion0."
    upsampled = found[f"{fusion}upsample.upsample_transpose.output_quantizer"]
    rectified = found[f"{fusion}cv1.block.act.output_quantizer"]
    assert upsampled.amax == rectified.amax > 0
    assert int(upsampled.grid().zero_point) == 128
    assert int(rectified.grid().zero_point) == 0


def test_modes_are_as_before_and_gradients_off(build_small: Build, images_of: Images) -> None:
    model = build_small("repopt/yolov6n_opt")
    spec = QuantizationSpec(method="max", keep_batch_norm=True)
    quantized = quantized_model(model, spec).train()
    quantized.backbone.eval()
    statistics = quantized.neck.Rep_p3.conv1.bn.running_mean.clone()
    calibrate(quantized, [images_of(model)], spec)
    assert quantized.training
    assert not quantized.backbone.training
    assert torch.equal(quantized.neck.Rep_p3.conv1.bn.running_mean, statistics)
    assert all(q.mode == "quantize" and q.observer is None for _, q in quantizers(quantized))


def test_an_error_on_the_way_leaves_the_model_as_it_was(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    quantized = quantized_model(model, QuantizationSpec()).train()

    def batches() -> Tensor:
        yield images_of(model)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        calibrate(quantized, batches(), QuantizationSpec())
    assert quantized.training
    assert all(q.mode == "off" and q.observer is None and not q.amax.any() for _, q in quantizers(quantized))


def everything(model: Detector) -> dict[str, object]:
    """What a calibration changes, by name."""
    found: dict[str, object] = {name: module.training for name, module in model.named_modules()}
    for name, q in quantizers(model):
        found[f"{name}.settings"] = (q.mode, q.enabled, q.unsigned, q.num_bits, q.observer, bool(q.negative))
        found[f"{name}.amax"] = q.amax.tolist()
    return found


def test_what_is_aborted_or_fails_leaves_an_earlier_calibration(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    spec = QuantizationSpec(target="tensorrt", method="max")
    quantized = quantized_model(model, spec).train()
    calibrate(quantized, [images_of(model)], spec)
    before = everything(quantized)
    calibrator = Calibrator(quantized, QuantizationSpec(target="onnxruntime", bits=4))
    calibrator.abort()  # has not begun
    with pytest.raises(RuntimeError, match="has not begun"):
        calibrator.finish()
    for images, message in ((None, "no images"), (torch.zeros_like(images_of(model)), "no value other than 0")):
        calibrator.begin()
        assert not quantized.training
        with pytest.raises(RuntimeError, match="has begun already"):
            calibrator.begin()
        if images is not None:
            with torch.no_grad():
                quantized(images)
            calibrator.count(len(images))
        with pytest.raises(ConfigError, match=message):
            calibrator.finish()
        assert everything(quantized) == before
    calibrator.begin()
    calibrator.abort()
    calibrator.abort()
    assert everything(quantized) == before


def test_steps_that_someone_else_makes_calibrate_as_the_function_does(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    spec = QuantizationSpec(target="onnxruntime", method="percentile", bits=6)
    expected, quantized = quantized_model(model, spec), quantized_model(model, spec)
    calibrate(expected, [images_of(model, seed) for seed in range(2)], spec)
    calibrator = Calibrator(quantized, spec)
    for _ in range(2):  # it can be used again, and nothing is left of the first time
        calibrator.begin()
        with torch.no_grad():
            for seed in range(2):
                quantized(images_of(model, seed))
                calibrator.count(2)
        calibrator.finish()
        assert everything(quantized) == everything(expected)
        calibrator.abort()  # has ended
        assert everything(quantized) == everything(expected)


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3, 64, 64)]])
def test_no_images_is_refused(build_small: Build, batches: list[Tensor]) -> None:
    quantized = quantized_model(build_small("yolov6n"), QuantizationSpec())
    with pytest.raises(ConfigError, match="no images"):
        calibrate(quantized, batches, QuantizationSpec())


def test_ranges_of_nothing_or_of_no_number_are_refused_by_name(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    spec = QuantizationSpec(method="entropy")
    quantized = quantized_model(model, spec)
    with pytest.raises(ConfigError, match=r"backbone\.stem\.rbr_reparam\.input_quantizer"):
        check_calibrated(quantized)
    with pytest.raises(ConfigError, match=r"backbone\.stem\.rbr_reparam\.input_quantizer: no value other than 0"):
        calibrate(quantized, [torch.zeros_like(images_of(model))], spec)
    bad = images_of(model)
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"backbone\.stem\.rbr_reparam\.input_quantizer.*not finite"):
        calibrate(quantized, [images_of(model), bad], spec)
    with pytest.raises(ValueError, match="no quantisers"):
        calibrate(model, [images_of(model)], spec)


def test_one_calibration_for_both_targets(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6n")
    signed, unsigned = QuantizationSpec(target="tensorrt"), QuantizationSpec(target="onnxruntime")
    images = images_of(model)
    first, second = quantized_model(model, signed), quantized_model(model, unsigned)
    calibrate(first, [images], signed)
    calibrate(second, [images], unsigned)
    configure_quantizers(first, unsigned)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
        configure_quantizers(first, signed)
        assert not torch.equal(first(images), second(images))


def test_fewer_bits_lose_more_and_skipping_regains(build_small: Build, images_of: Images) -> None:
    model = build_small("repopt/yolov6n_opt")
    images = images_of(model, 9)
    with torch.no_grad():
        expected = model(images)[..., :4]

    def ratio(spec: QuantizationSpec) -> float:
        quantized = quantized_model(model, spec)
        calibrate(quantized, [images_of(model, seed) for seed in range(3)], spec)
        with torch.no_grad():
            return noise_ratio_db(quantized(images)[..., :4], expected)

    eight, four, skipped = (
        ratio(QuantizationSpec(method="max", bits=bits, skip=skip))
        for bits, skip in ((8, ()), (4, ()), (4, ("backbone.*",)))
    )
    assert eight > skipped > four


@pytest.fixture
def calibrated(build_small: Build, images_of: Images) -> tuple[Detector, QuantizationSpec]:
    model = build_small("repopt/yolov6n_opt")
    spec = QuantizationSpec(method="mse", target="onnxruntime", skip=("detect.*_preds.*",), keep_batch_norm=True)
    quantized = quantized_model(model, spec)
    calibrate(quantized, [images_of(model)], spec)
    return quantized, spec


READ = """
import sys, torch
from pathlib import Path
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.config import ModelConfig
from yolov6_ignite.models import build_model
from yolov6_ignite.quantization import QuantizationSpec, quantized_model, set_mode
content = read_checkpoint(Path(sys.argv[1]))
assert torch.load(sys.argv[1], weights_only=True).keys() == content.keys()
spec = QuantizationSpec.from_dict(content["quantization"])
model = quantized_model(build_model(ModelConfig(**content["config"]["model"]), 3), spec)
model.load_state_dict(content["model"])
set_mode(model, "quantize")
with torch.no_grad():
    torch.save(model(content["images"]), sys.argv[2])
"""


def test_a_fresh_process_computes_the_same_bits(
    calibrated: tuple[Detector, QuantizationSpec], images_of: Images, tmp_path: Path
) -> None:
    model, spec = calibrated
    images = images_of(model, 5)
    config = apply_overrides(load_config("repopt/yolov6n_opt"), {"model.width_multiple": 0.125})
    content = {
        "kind": "weights",
        "config": {"model": config.model.model_dump(mode="json")},
        "names": ["a", "b", "c"],
        "metrics": {},
        "epoch": 0,
        "model": model.state_dict(),
        "quantization": spec.to_dict(),
        "images": images,
    }
    write_checkpoint(tmp_path / "model.pt", content)
    assert read_checkpoint(tmp_path / "model.pt")["quantization"] == spec.to_dict()
    paths = [str(tmp_path / name) for name in ("model.pt", "output.pt")]
    subprocess.run([sys.executable, "-c", READ, *paths], check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(paths[1], weights_only=True), model(images))


def test_a_state_of_another_spec_does_not_load(calibrated: tuple[Detector, QuantizationSpec]) -> None:
    model, _ = calibrated
    config = apply_overrides(load_config("repopt/yolov6n_opt"), {"model.width_multiple": 0.125})
    other = quantized_model(build_model(config.model, 3), QuantizationSpec(keep_batch_norm=True))
    with pytest.raises(RuntimeError, match=r"detect\.cls_preds\.0\.input_quantizer\.amax"):
        other.load_state_dict(model.state_dict())


def test_copies_and_averages_keep_ranges(calibrated: tuple[Detector, QuantizationSpec], images_of: Images) -> None:
    model, _ = calibrated
    images = images_of(model)
    duplicate = copy.deepcopy(model)
    ranges = {name: quantizer.amax.clone() for name, quantizer in quantizers(model)}
    with torch.no_grad():
        assert torch.equal(duplicate(images), model(images))
    engine = Engine(lambda engine, _: engine.fire_event(TrainEvents.OPTIMIZER_STEP_COMPLETED))
    engine.register_events(*TrainEvents)
    average = ModelEMA(model, decay=0.5)
    average.attach(engine)

    @engine.on(Events.ITERATION_STARTED)
    @torch.no_grad()
    def _move(_: Engine) -> None:
        for parameter in model.parameters():
            parameter.add_(0.01)

    engine.run([0] * 20)
    for name, quantizer in quantizers(average.model):
        assert quantizer.mode == "quantize"
        assert torch.equal(quantizer.amax, ranges[name]), name


def test_training_steps_reach_the_weights_and_leave_ranges(
    calibrated: tuple[Detector, QuantizationSpec], images_of: Images
) -> None:
    model, _ = calibrated
    ranges = {name: quantizer.amax.clone() for name, quantizer in quantizers(model)}
    model.train()
    output = model(images_of(model))
    (output.logits.square().mean() + output.distances.square().mean()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0
    assert all(torch.equal(quantizer.amax, ranges[name]) for name, quantizer in quantizers(model))
    set_mode(model, "off")


def _calibrate_on_a_rank(rank: int, states: list[str], folder: str) -> None:
    for state in states:
        model, spec, batches = torch.load(state, weights_only=False)  # the test's own file
        calibrate(model, batches[rank::2] if spec.method == "max" else batches * (1 - rank), spec)
        torch.save(model.state_dict(), Path(folder) / f"{spec.method}{rank}.pt")


def test_two_ranks_end_with_the_ranges_of_one(
    build_small: Build, images_of: Images, tmp_path: Path, free_port: int
) -> None:
    model = build_small("repopt/yolov6n_opt")
    batches = [images_of(model), 2 * images_of(model, 1), images_of(model, 2)]
    states, expected = [], {}
    for method in ("max", "entropy"):  # of the second, all images are on the first rank
        spec = QuantizationSpec(method=method)  # type: ignore[arg-type]
        alone = quantized_model(model, spec)
        torch.save((alone, spec, batches), tmp_path / f"{method}.state")
        states.append(str(tmp_path / f"{method}.state"))
        calibrate(alone, batches, spec)
        expected[method] = alone.state_dict()
    with idist.Parallel("gloo", nproc_per_node=2, master_addr="127.0.0.1", master_port=free_port) as parallel:
        parallel.run(_calibrate_on_a_rank, states, str(tmp_path))
    for method, state in expected.items():
        for rank in range(2):
            found = torch.load(tmp_path / f"{method}{rank}.pt", weights_only=True)
            assert all(torch.equal(found[key], tensor) for key, tensor in state.items()), (method, rank)


def test_dead_activations_stay_dead_and_are_named(
    build_small: Build, images_of: Images, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_small("yolov6n").deploy()
    dead = model.neck.Rep_p3.conv1.rbr_reparam
    nn.init.constant_(dead.bias, -1000.0)  # behind it there is a ReLU
    quantized = quantized_model(model, QuantizationSpec(target="onnxruntime"))
    calibrate(quantized, [images_of(model)], QuantizationSpec(target="onnxruntime"))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "maps are 0 on all images, and stay so: neck.Rep_p3." in message
    with torch.no_grad():
        assert quantized(images_of(model)).isfinite().all()
