from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import LearningRatePolicy, register_train_events


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_groups_follow_the_iteration(optimizer_class: type[torch.optim.Optimizer]) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3)]
    options = {"momentum": 0.5} if optimizer_class is torch.optim.SGD else {}
    optimizer = optimizer_class(groups, lr=1.0, **options)
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    policy = LearningRatePolicy(
        optimizer, lambda iteration: SimpleNamespace(lr=(iteration, 10 + iteration, 20 + iteration), momentum=0.9)
    )
    policy.attach(engine)
    seen: list[list[float]] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    engine.run(range(2), max_epochs=2)
    assert seen == [[i, 10 + i, 20 + i] for i in range(4)]
    assert {group.get("momentum") for group in optimizer.param_groups} == ({0.9} if options else {None})


def test_another_number_of_groups_is_an_error() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    LearningRatePolicy(optimizer, lambda iteration: SimpleNamespace(lr=(1.0, 2.0), momentum=0.9)).attach(engine)
    with pytest.raises(ValueError, match="zip"):
        engine.run([0])
