from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import FiniteGuard, GradientAccumulation, GradientClipping, ModelEMA, TrainEvents

NAME = "x/gradient_norm"


def norm_of(toy: Any) -> float:
    return float(torch.cat([p.grad.flatten() for p in toy.model.parameters()]).norm())


def watched(toy: Any, *handlers: Any) -> tuple[list[float], list[float]]:
    """Norms before and after the handlers, one a step that is not rejected."""
    before: list[float] = []
    after: list[float] = []
    toy.engine.add_event_handler(TrainEvents.OPTIMIZER_STEP_STARTED, lambda engine: before.append(norm_of(toy)))
    for handler in handlers:
        handler.attach(toy.engine)
    toy.engine.add_event_handler(TrainEvents.OPTIMIZER_STEP_STARTED, lambda engine: after.append(norm_of(toy)))
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 2).attach(toy.engine)
    return before, after


def test_norms_above_the_limit_come_down_to_it_and_others_stay(toy: Any) -> None:
    limit = 3.0
    before, after = watched(toy, GradientClipping(toy.optimizer, limit))
    toy.engine.run(toy.batches(40), max_epochs=1)
    assert min(before) < limit < max(before)
    assert after == pytest.approx([min(norm, limit) for norm in before], rel=1e-4)


def test_the_metric_is_the_epochs_mean_before_clipping(toy: Any) -> None:
    means: list[float] = []
    before, after = watched(toy, GradientClipping(toy.optimizer, float("inf")))
    toy.engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: means.append(engine.state.metrics[NAME])
    )  # a listener behind it, as the history is
    toy.engine.run(toy.batches(4), max_epochs=2)
    assert means == pytest.approx([sum(before[:2]) / 2, sum(before[2:]) / 2])
    assert after == before


def test_a_rejected_step_is_left_alone_and_not_counted(toy: Any) -> None:
    guard = FiniteGuard(toy.model, toy.optimizer, max_bad_steps=9, keep_batch=str, exit_code=4)
    ModelEMA(toy.model).attach(toy.engine)
    before, _ = watched(toy, guard, GradientClipping(toy.optimizer, 0.5))
    batches = toy.batches(4)
    batches[3] = torch.full_like(batches[3], float("nan"))
    toy.engine.run(batches, max_epochs=1)
    assert toy.engine.state.metrics[NAME] == pytest.approx(before[0])
    toy.engine.state.max_epochs = None
    toy.engine.run([torch.full_like(batches[0], float("nan"))] * 2, max_epochs=1)
    assert NAME not in toy.engine.state.metrics


def test_a_resume_inside_an_epoch_goes_on_with_the_mean(make_toy: Callable[[], Any]) -> None:
    whole, halves = make_toy(), make_toy()
    watched(whole, GradientClipping(whole.optimizer, 0.5))
    whole.engine.run(whole.batches(8), max_epochs=1)

    first = GradientClipping(halves.optimizer, 0.5)
    watched(halves, first)

    def stop(engine: Engine) -> None:
        engine.terminate(skip_completed=True)

    halves.engine.add_event_handler(Events.ITERATION_COMPLETED(once=4), stop)
    halves.engine.run(halves.batches(8), max_epochs=1)
    resumed = make_toy()
    resumed.model.load_state_dict(halves.model.state_dict())
    resumed.optimizer.load_state_dict(halves.optimizer.state_dict())
    second = GradientClipping(resumed.optimizer, 0.5)
    second.load_state_dict(first.state_dict())
    watched(resumed, second)
    resumed.engine.run(resumed.batches(8)[4:], max_epochs=1)
    assert resumed.engine.state.metrics[NAME] == whole.engine.state.metrics[NAME]


def test_wrong_settings_are_refused(toy: Any) -> None:
    for norm in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            GradientClipping(toy.optimizer, norm)
