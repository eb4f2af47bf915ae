from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ignite.engine import Events
from yolov6_ignite.handlers import GradientAccumulation, LossMeans


def test_means_over_the_epoch(toy: Any) -> None:
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    seen: list[float] = []
    toy.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(float(engine.state.output["iou"]))
    )
    LossMeans().attach(toy.engine)
    toy.engine.run(toy.batches(5), max_epochs=2)
    assert toy.engine.state.losses["iou"] == pytest.approx(sum(seen[5:]) / 5, rel=1e-6)
    assert toy.engine.state.losses["cls"] == pytest.approx(2 * toy.engine.state.losses["iou"], rel=1e-6)
    assert toy.engine.state.running_losses() == {}


def test_state_goes_on_inside_an_epoch(make_toy: Callable[[], Any]) -> None:
    toy = make_toy()
    GradientAccumulation(toy.optimizer, toy.scaler, lambda iteration: 1).attach(toy.engine)
    means = LossMeans()
    toy.engine.add_event_handler(Events.ITERATION_COMPLETED, means.after_iteration)
    toy.engine.run(toy.batches(2), max_epochs=1)
    other = LossMeans()
    other.load_state_dict(means.state_dict())
    assert other.running() == means.running()
    assert set(other.running()) == {"iou", "cls"}
