from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from yolov6_ignite.handlers import GradientAccumulation, ModelEMA
from yolov6_ignite.handlers.ema import ema_decay


def test_decay_of_the_specification() -> None:
    for updates, decay in ((1, 0.000499825), (2, 0.0009994002), (100, 0.0487656984), (2000, 0.6320573468)):
        assert ema_decay(updates) == pytest.approx(decay, rel=1e-6)


def test_one_update_of_batch_norm_as_in_the_specification(toy: Any) -> None:
    norm = nn.BatchNorm2d(1)
    ema = ModelEMA(norm)
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.running_mean.fill_(3.0)
        norm.num_batches_tracked.fill_(9)
    ema(toy.engine)
    assert ema.model.weight.item() == pytest.approx(1.9995002, abs=1e-6)
    assert ema.model.running_mean.item() == pytest.approx(2.9985003, abs=1e-6)
    assert ema.model.num_batches_tracked.item() == 0


def test_it_follows_the_formula_over_many_steps(toy: Any) -> None:
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    ema = ModelEMA(toy.model, decay=0.99, ramp=5)
    ema.attach(toy.engine)
    expected = {k: v.clone().double() for k, v in toy.model.state_dict().items() if v.is_floating_point()}
    from yolov6_ignite.handlers import TrainEvents

    def by_hand(engine: Any) -> None:
        decay = ema_decay(engine.state.optimizer_step, 0.99, 5)
        for key, value in toy.model.state_dict().items():
            if key in expected:
                expected[key].mul_(decay).add_(value.double(), alpha=1 - decay)

    toy.engine.add_event_handler(TrainEvents.OPTIMIZER_STEP_COMPLETED, by_hand)
    toy.engine.run(toy.batches(10), max_epochs=2)
    averaged = toy.engine.state.ema_model.state_dict()
    for key, value in expected.items():
        assert torch.allclose(averaged[key].double(), value, atol=1e-6)
    assert ema.updates == 20
    assert not toy.engine.state.ema_model.training
    assert not any(p.requires_grad for p in toy.engine.state.ema_model.parameters())


def test_the_average_does_not_alias_the_model(toy: Any) -> None:
    ema = ModelEMA(toy.model)
    before = ema.model[1].running_mean.clone()
    toy.model(toy.batches(1)[0])
    assert torch.equal(ema.model[1].running_mean, before)
