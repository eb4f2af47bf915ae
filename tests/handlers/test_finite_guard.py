from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from yolov6_ignite.handlers import FiniteGuard, GradientAccumulation, ModelEMA, StopOnRequest


def guarded(toy: Any, max_bad_steps: int = 3) -> tuple[FiniteGuard, list[Any]]:
    kept: list[Any] = []

    def keep(batch: Any) -> str:
        kept.append(batch)
        return "bad_batch.pt"

    guard = FiniteGuard(toy.model, toy.optimizer, max_bad_steps=max_bad_steps, keep_batch=keep, exit_code=4)
    guard.attach(toy.engine)
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    ModelEMA(toy.model).attach(toy.engine)
    StopOnRequest(exit_code=75).attach(toy.engine)
    return guard, kept


def poison(batches: list[torch.Tensor], *positions: int) -> list[torch.Tensor]:
    return [torch.full_like(b, float("nan")) if i in positions else b for i, b in enumerate(batches)]


def test_a_bad_batch_leaves_weights_optimizer_average_and_statistics_finite(toy: Any) -> None:
    guard, kept = guarded(toy)
    toy.engine.run(poison(toy.batches(6), 1, 3), max_epochs=1)
    assert (guard.bad_steps, guard.bad_steps_in_a_row) == (2, 0)
    assert toy.engine.state.optimizer_step == 4
    assert not kept
    for tensors in (toy.model.state_dict(), toy.engine.state.ema_model.state_dict()):
        assert all(torch.isfinite(t).all() for t in tensors.values())
    assert all(torch.isfinite(s["momentum_buffer"]).all() for s in toy.optimizer.state.values())


def test_too_many_in_a_row_stop_the_run_and_keep_the_batch(toy: Any) -> None:
    completed: list[int] = []
    _, kept = guarded(toy, max_bad_steps=2)
    toy.engine.add_event_handler(Events.COMPLETED, lambda engine: completed.append(1))
    toy.engine.run(poison(toy.batches(8), 2, 3, 4, 5), max_epochs=1)
    assert toy.engine.state.iteration == 4
    assert toy.engine.state.stop_request.exit_code == 4
    assert "bad_batch.pt" in toy.engine.state.stop_request.reason
    assert len(kept) == 1
    assert torch.isnan(kept[0]).all()
    assert not completed


def test_infinity_and_overflowing_sums_are_told_apart(toy: Any) -> None:
    guarded(toy)
    toy.engine.run([torch.full((2, 1, 4, 4), 1e18)], max_epochs=1)
    gradients = torch.cat([p.flatten() for p in toy.model.parameters()])
    assert torch.isfinite(gradients).all()


def test_counts_survive_a_resume(toy: Any) -> None:
    guard, _ = guarded(toy)
    guard.load_state_dict({"bad_steps": 5, "bad_steps_in_a_row": 2})
    toy.engine.run(poison(toy.batches(3), 0), max_epochs=1)
    assert toy.engine.state.stop_request.exit_code == 4
    assert guard.state_dict() == {"bad_steps": 6, "bad_steps_in_a_row": 3}


def test_wrong_settings_are_refused(toy: Any) -> None:
    with pytest.raises(ValueError, match="max_bad_steps"):
        FiniteGuard(toy.model, toy.optimizer, max_bad_steps=0, keep_batch=str, exit_code=4)
