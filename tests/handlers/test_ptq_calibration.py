from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from yolov6_ignite.handlers import HandlerSet, PTQCalibration

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization import Calibrator, QuantizationSpec, calibrate, insert_quantizers, quantizers

SPEC = QuantizationSpec(target="onnxruntime")


def quantized_net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    insert_quantizers(model, SPEC, torch.zeros(1, 3, 8, 8))
    return model.train()


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [scale * torch.rand(2, 3, 8, 8, generator=generator) for scale in (1, 3, 2)]


class Showing:
    """An engine that shows images to a model, and the modes of its quantisers as the steps find them."""

    def __init__(self, model: nn.Module) -> None:
        self.modes: list[set[str]] = []

        @torch.no_grad()
        def step(engine: Engine, images: torch.Tensor) -> int:
            self.modes.append({quantizer.mode for _, quantizer in quantizers(model)})
            assert not model.training
            model(images)
            return len(images)

        self.engine = Engine(step)


def test_it_calibrates_as_the_function_does() -> None:
    expected, model = quantized_net(), quantized_net()
    calibrate(expected, batches(), SPEC)
    showing = Showing(model)
    HandlerSet(showing.engine).add("calibration", PTQCalibration(Calibrator(model, SPEC)))
    assert {quantizer.mode for _, quantizer in quantizers(model)} == {"off"}
    showing.engine.run(batches())
    assert showing.modes == [{"calibrate"}] * 3
    assert model.training
    wanted = dict(quantizers(expected))
    for name, quantizer in quantizers(model):
        assert quantizer.mode == "quantize"
        assert quantizer.observer is None
        assert torch.equal(quantizer.amax, wanted[name].amax), name
        assert quantizer.amax.gt(0).all()


def test_images_that_give_no_range_end_the_run_with_one_message() -> None:
    model = quantized_net()
    showing = Showing(model)
    PTQCalibration(Calibrator(model, SPEC)).attach(showing.engine)
    with pytest.raises(ConfigError, match=r"0\.input_quantizer.*: no value other than 0 was seen"):
        showing.engine.run([torch.zeros(2, 3, 8, 8)])
    assert model.training
    assert {quantizer.mode for _, quantizer in quantizers(model)} == {"off"}


def test_a_run_that_fails_is_aborted_by_who_runs_it() -> None:
    model = quantized_net()
    calibrator = Calibrator(model, SPEC)
    showing = Showing(model)
    PTQCalibration(calibrator).attach(showing.engine)
    with pytest.raises(AttributeError):
        showing.engine.run([batches()[0], None])
    assert {quantizer.mode for _, quantizer in quantizers(model)} == {"calibrate"}
    calibrator.abort()
    assert model.training
    assert {(quantizer.mode, quantizer.observer) for _, quantizer in quantizers(model)} == {("off", None)}
    again = Showing(model)
    PTQCalibration(calibrator).attach(again.engine)
    again.engine.run(batches())
    assert {quantizer.mode for _, quantizer in quantizers(model)} == {"quantize"}
