from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn
from yolov6_ignite.handlers import LearningRateCurve, LearningRateFinder, ModelEMA, TrainEvents, find_learning_rate


def search(toy: Any, count: int = 8, **settings: Any) -> LearningRateCurve:
    return find_learning_rate(
        toy.engine, toy.batches(count), toy.optimizer, toy.scaler, restore=[toy.model], **settings
    )


def test_a_quadratics_rate_is_found(toy: Any) -> None:
    """Loss (a/2) w^2: gradient descent falls fastest near 1 / a and diverges above 2 / a."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def step(engine: Any, batch: Any) -> dict[str, torch.Tensor]:
        loss = 2.0 * model.weight.square().sum()
        loss.backward()
        engine.fire_event(TrainEvents.BACKWARD_COMPLETED)
        return {"a": loss.detach() * 0.75, "b": loss.detach() * 0.25}

    toy.engine._process_function = step
    curve = find_learning_rate(
        toy.engine, range(7), optimizer, toy.scaler, restore=[model], lowest=1e-5, highest=100.0, steps=120
    )
    assert 0.002 < curve.suggestion() < 0.25
    assert 80 < len(curve.losses) < 120  # it does not go on once the loss has diverged
    assert all(math.isfinite(loss) for loss in curve.losses)
    assert curve.losses[0] == 2.0
    assert model.weight.item() == 1.0
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_rates_rise_by_a_factor_and_are_those_of_solver_lr0(toy: Any) -> None:
    used: list[float] = []
    toy.engine.add_event_handler(
        TrainEvents.OPTIMIZER_STEP_COMPLETED, lambda engine: used.append(toy.optimizer.param_groups[0]["lr"])
    )
    curve = search(toy, per_lr0=4.0, window=3, lowest=1e-4, highest=1e-2, steps=21)
    assert used == pytest.approx([4 * 10 ** (-4 + step / 10) for step in range(21)])
    assert curve.learning_rates == pytest.approx([10 ** (-4 + step / 10) for step in range(21)])
    assert toy.engine.state.optimizer_step == len(curve.losses) == 21
    assert toy.engine.state.iteration == 63  # over the end of the data, as often as needed


def test_everything_is_put_back(toy: Any) -> None:
    ema = ModelEMA(toy.model)
    toy.model(torch.ones(1, 1, 2, 2)).sum().backward()
    toy.optimizer.step()
    expected = copy.deepcopy((toy.model.state_dict(), toy.optimizer.state_dict(), ema.model.state_dict()))
    search(toy, lowest=1e-5, steps=50)
    found = (toy.model.state_dict(), toy.optimizer.state_dict(), ema.model.state_dict())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in toy.model.parameters())


def test_everything_is_put_back_after_an_error(make_toy: Callable[[], Any]) -> None:
    toy = make_toy()

    def fail(engine: Any) -> None:
        raise MemoryError

    toy.engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), fail)
    with pytest.raises(MemoryError):
        search(toy)
    torch.testing.assert_close(toy.model.state_dict(), make_toy().model.state_dict(), rtol=0, atol=0)
    assert toy.optimizer.param_groups[0]["lr"] == 0.01


def test_the_suggestion_is_logged(toy: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="yolov6_ignite"):
        curve = search(toy, lowest=1e-4)
    assert f"try solver.lr0={curve.suggestion():.2g}" in caplog.text


def curve_of(loss_at: Callable[[float], float]) -> LearningRateCurve:
    rates = [10 ** (-6 + step / 16) for step in range(97)]
    return LearningRateCurve(tuple(rates), tuple(loss_at(math.log10(rate)) for rate in rates))


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    falling = curve_of(lambda lr: 5 - 4 / (1 + math.exp(-4 * (lr + 3))) + (5 * (lr + 1) if lr > -1 else 0.0))
    assert math.log10(falling.suggestion()) == pytest.approx(-3, abs=0.15)


def test_the_suggestion_keeps_a_distance_from_the_lowest_point() -> None:
    cliff = curve_of(lambda lr: 5 - 4 / (1 + math.exp(-20 * (lr + 2))) + (50 * (lr + 1.7) if lr > -1.7 else 0.0))
    assert math.log10(cliff.suggestion()) < -2.6


def test_a_loss_that_never_falls_is_said() -> None:
    with pytest.raises(ValueError, match="falls at none of the 97"):
        curve_of(lambda lr: 10 + lr).suggestion()
    with pytest.raises(ValueError, match="falls at none of the 0"):
        LearningRateCurve((), ()).suggestion()


def test_smoothing_shifts_nothing() -> None:
    losses = [1.0] * 10 + [0.0] + [1.0] * 10
    smooth = LearningRateCurve(tuple(range(1, 22)), tuple(losses)).smoothed()
    assert smooth == pytest.approx(smooth[::-1])
    assert min(smooth) == smooth[10]


def test_a_loss_that_diverged_does_not_hide_what_came_before() -> None:
    def loss_at(lr: float) -> float:
        return 5 - 4 / (1 + math.exp(-4 * (lr + 3)))

    assert curve_of(lambda lr: loss_at(lr) if lr < -1 else 1e9).suggestion() == pytest.approx(
        curve_of(loss_at).suggestion()
    )


def test_wrong_use_is_refused(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="lowest"):
        LearningRateFinder(toy.optimizer, lowest=1.0, highest=0.1)
    with pytest.raises(ValueError, match="steps"):
        LearningRateFinder(toy.optimizer, lowest=0.1, highest=1.0, steps=1)
    monkeypatch.setattr("yolov6_ignite.handlers.lr_finder.idist.get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="one rank"):
        search(toy)
