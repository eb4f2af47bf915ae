from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Events
from yolov6_ignite.handlers import GradientAccumulation, TrainEvents


def attach(toy: Any, window: Callable[[int], int]) -> GradientAccumulation:
    accumulation = GradientAccumulation(toy.optimizer, toy.scaler, window)
    accumulation.attach(toy.engine)
    return accumulation


def test_first_iteration_steps_and_windows_go_on_over_an_epochs_end(toy: Any) -> None:
    attach(toy, lambda iteration: 3)
    stepped: list[int] = []
    toy.engine.add_event_handler(
        TrainEvents.OPTIMIZER_STEP_COMPLETED, lambda engine: stepped.append(engine.state.iteration - 1)
    )
    toy.engine.run(toy.batches(4), max_epochs=2)
    assert stepped == [2, 5]
    assert toy.engine.state.optimizer_step == 2


def test_a_step_uses_the_sum_of_the_window(make_toy: Callable[[], Any]) -> None:
    summed, by_hand = make_toy(), make_toy()
    attach(summed, lambda iteration: 2)
    batches = summed.batches(2)
    summed.engine.run(batches, max_epochs=1)
    for batch in batches:
        by_hand.model(batch).square().mean().backward()
    by_hand.optimizer.step()
    for ours, expected in zip(summed.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_rejected_step_drops_its_gradients(toy: Any) -> None:
    attach(toy, lambda iteration: 1)
    before = [p.clone() for p in toy.model.parameters()]
    completed: list[int] = []
    toy.engine.add_event_handler(
        TrainEvents.OPTIMIZER_STEP_STARTED, lambda engine: setattr(engine.state, "step_rejected", True)
    )
    toy.engine.add_event_handler(TrainEvents.OPTIMIZER_STEP_COMPLETED, lambda engine: completed.append(1))
    toy.engine.run(toy.batches(3), max_epochs=1)
    assert not completed
    assert toy.engine.state.optimizer_step == 0
    assert all(torch.equal(p, old) for p, old in zip(toy.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in toy.model.parameters())


def test_an_open_window_is_part_of_the_state(make_toy: Callable[[], Any]) -> None:
    whole, first, second = make_toy(), make_toy(), make_toy()
    batches = whole.batches(6)
    attach(whole, lambda iteration: 4)
    whole.engine.run(batches, max_epochs=1)

    saved = attach(first, lambda iteration: 4)
    first.engine.run(batches[:2], max_epochs=1)
    resumed = attach(second, lambda iteration: 4)
    second.model.load_state_dict(first.model.state_dict())
    resumed.load_state_dict(saved.state_dict())
    second.engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "iteration", 2))
    second.engine.run(batches[2:], max_epochs=1)
    for ours, expected in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_closed_window_keeps_no_gradients(toy: Any) -> None:
    accumulation = attach(toy, lambda iteration: 1)
    toy.engine.run(toy.batches(2), max_epochs=1)
    assert accumulation.state_dict() == {"last_step": 1, "gradients": []}
