from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from yolov6_ignite.handlers import (
    GradientAccumulation,
    HandlerSet,
    ModelEMA,
    QuantizationAwareTraining,
    TrainEvents,
    register_train_events,
)

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization import (
    QuantizationSpec,
    calibrate,
    check_trainable,
    insert_quantizers,
    quantizers,
    set_mode,
)

SPEC = QuantizationSpec(method="max", target="onnxruntime", keep_batch_norm=True)


def images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 3, 8, 8, generator=generator) for _ in range(count)]


@pytest.fixture
def model() -> nn.Module:
    """Calibrated, in train mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    insert_quantizers(model, SPEC, images(1)[0])
    calibrate(model, images(3), SPEC)
    return model.train()


@pytest.fixture
def engine(model: nn.Module) -> Engine:
    """Trains it, with an average."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: torch.Tensor) -> None:
        model(batch).square().mean().backward()
        engine.fire_event(TrainEvents.BACKWARD_COMPLETED)

    engine = Engine(step)
    register_train_events(engine)
    handlers = HandlerSet(engine)
    handlers.add(
        "accumulation",
        GradientAccumulation(optimizer, torch.amp.GradScaler("cpu", enabled=False), lambda iteration: 1),
    )
    handlers.add("ema", ModelEMA(model, decay=0.5))
    return engine


def test_ranges_of_model_and_average_stay_to_the_bit(model: nn.Module, engine: Engine) -> None:
    before = {name: quantizer.amax.clone() for name, quantizer in quantizers(model)}
    weight = model[0].weight.detach().clone()
    QuantizationAwareTraining(model, check_trainable).attach(engine)
    engine.run(images(10), max_epochs=2)
    assert not torch.equal(model[0].weight, weight)
    for trained in (model, engine.state.ema_model):
        for name, quantizer in quantizers(trained):
            assert quantizer.mode == "quantize"
            assert torch.equal(quantizer.amax, before[name]), name


def test_batch_norms_keep_their_statistics_after_so_many_epochs(model: nn.Module, engine: Engine) -> None:
    QuantizationAwareTraining(model, check_trainable, freeze_batch_norm_after=2).attach(engine)
    means, weights = [model[1].running_mean.clone()], [model[1].weight.detach().clone()]

    @engine.on(Events.EPOCH_COMPLETED)
    def _evaluated(engine: Engine) -> None:
        means.append(model[1].running_mean.clone())
        weights.append(model[1].weight.detach().clone())
        model.eval()  # an evaluation of the model itself
        model.train()

    engine.run(images(3), max_epochs=4)
    assert not torch.equal(means[1], means[0])
    assert not torch.equal(means[2], means[1])
    assert torch.equal(means[3], means[2])
    assert torch.equal(means[4], means[2])
    assert not torch.equal(weights[3], weights[2])
    assert not torch.equal(weights[4], weights[3])
    assert model[0].training


@pytest.mark.parametrize(("after", "frozen"), [(0, True), (1, True), (2, False), (None, False)])
def test_an_epoch_that_is_resumed_inside_is_frozen_too(
    model: nn.Module, engine: Engine, after: int | None, frozen: bool
) -> None:
    QuantizationAwareTraining(model, check_trainable, freeze_batch_norm_after=after).attach(engine)
    engine.load_state_dict(
        {"iteration": 5, "max_epochs": 2, "epoch_length": 4, "optimizer_step": 5}
    )  # in the second epoch
    mean = model[1].running_mean.clone()
    engine.run(images(4))
    assert engine.state.iteration == 8
    assert torch.equal(model[1].running_mean, mean) == frozen


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: set_mode(model, "off", ["3"]), r"3\.input_quantizer, 3\.weight_quantizer: not in mode quantize"),
        (lambda model: model[0].input_quantizer.amax.zero_(), r"0\.input_quantizer: no value other than 0"),
        (lambda model: model[0].input_quantizer.amax.fill_(torch.nan), r"0\.input_quantizer: values that are not"),
        (lambda model: set_mode(model, "calibrate"), "not in mode quantize"),
    ],
)
def test_what_is_not_calibrated_does_not_start(
    model: nn.Module, engine: Engine, spoil: Callable[[nn.Module], None], message: str
) -> None:
    steps = []
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: steps.append(1))
    QuantizationAwareTraining(model, check_trainable).attach(engine)
    spoil(model)
    with pytest.raises(ConfigError, match=rf"quant\.mode: qat: .*{message}.*quant\.mode=ptq.*as quant\.calibrated"):
        engine.run(images(1))
    assert steps == []


def test_a_float_model_does_not_start(engine: Engine) -> None:
    QuantizationAwareTraining(nn.Conv2d(3, 2, 1), check_trainable).attach(engine)
    with pytest.raises(ConfigError, match=r"the model has no quantisers.*quant\.mode=ptq"):
        engine.run(images(1))


def test_a_negative_number_of_epochs_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="-1"):
        QuantizationAwareTraining(model, check_trainable, freeze_batch_norm_after=-1)
