"""Handlers on an engine that is not a run's: they work, or say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from yolov6_ignite.handlers import (
    EarlyStopping,
    Evaluation,
    FiniteGuard,
    GradientAccumulation,
    GradientClipping,
    History,
    LossMeans,
    ModelEMA,
    Progress,
    SamplerEpoch,
    StopOnRequest,
    TimeLimit,
)


class Bare:
    """A step as in Ignite's own examples: it knows nothing of this project."""

    def __init__(self, *, steps: bool = True) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.steps = steps
        self.engine = Engine(self._step)

    def _step(self, engine: Engine, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = self.model(batch).square().mean()
        loss.backward()
        if self.steps:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": loss.detach()}

    def run(self, epochs: int = 2) -> None:
        self.engine.run([torch.ones(3, 2)] * 4, max_epochs=epochs)


def test_an_average_after_every_iteration() -> None:
    bare = Bare()
    average = ModelEMA(bare.model, decay=0.5, ramp=1e-9, event=Events.ITERATION_COMPLETED)
    average.attach(bare.engine)
    expected = bare.model.weight.detach().clone()

    @bare.engine.on(Events.ITERATION_COMPLETED)
    def follow(engine: Engine) -> None:
        expected.lerp_(bare.model.weight.detach(), 0.5)

    bare.run()
    assert average.updates == 8
    assert torch.allclose(average.model.weight, expected)
    assert bare.engine.state.ema_model is average.model


def test_accumulation_brings_the_events_that_others_need() -> None:
    bare = Bare(steps=False)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    keep = lambda batch: ""  # noqa: E731
    for handler in (
        GradientAccumulation(bare.optimizer, scaler, lambda iteration: 2, event=Events.ITERATION_COMPLETED),
        FiniteGuard(bare.model, bare.optimizer, max_bad_steps=1, keep_batch=keep, exit_code=4),
        GradientClipping(bare.optimizer, 0.01),
        ModelEMA(bare.model),
        LossMeans(),
        SamplerEpoch(),
        TimeLimit(1, exit_code=75),
        StopOnRequest(exit_code=75),
        Progress(),
    ):
        handler.attach(bare.engine)
    bare.run()
    assert bare.engine.state.optimizer_step == 4
    assert bare.engine.state.losses.keys() == {"loss"}
    bare.engine.state.exit_stack.close()


def test_evaluation_brings_the_events_that_others_need() -> None:
    bare = Bare()
    written: list[str] = []
    seen: list[nn.Module] = []
    evaluate = lambda model: seen.append(model) or {"val/AP": 0.5}  # noqa: E731
    ModelEMA(bare.model, event=Events.ITERATION_COMPLETED).attach(bare.engine)
    Evaluation(evaluate, interval=1, heavy_range=0).attach(bare.engine)
    History(None, bare.optimizer, lambda path, text: written.append(text)).attach(bare.engine)
    EarlyStopping("val/AP", patience=1).attach(bare.engine)
    bare.run(epochs=5)
    assert seen == [bare.engine.state.ema_model] * 2
    assert bare.engine.state.epoch == 2
    assert [row["val/AP"] for row in bare.engine.state.history] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda bare: ModelEMA(bare.model), r"give event=Events\.ITERATION_COMPLETED"),
        (
            lambda bare: GradientAccumulation(bare.optimizer, torch.amp.GradScaler("cpu", enabled=False), lambda i: 1),
            r"BACKWARD_COMPLETED; give event=Events\.ITERATION_COMPLETED",
        ),
        (lambda bare: GradientClipping(bare.optimizer, 1.0), "attach GradientAccumulation before it"),
        (lambda bare: EarlyStopping("val/AP", patience=1), "attach Evaluation before it"),
    ],
)
def test_one_that_would_never_act_says_what_to_do(make: Any, remedy: str) -> None:
    bare = Bare()
    with pytest.raises(ValueError, match=remedy):
        make(bare).attach(bare.engine)
    assert not hasattr(bare.engine.state, "ema_model")


def test_evaluation_without_a_model_says_so() -> None:
    bare = Bare()
    Evaluation(lambda model: {}, interval=1, heavy_range=0).attach(bare.engine)
    with pytest.raises(RuntimeError, match="attach ModelEMA"):
        bare.run()


def test_what_is_on_the_state_before_any_handler_stays() -> None:
    bare = Bare()
    bare.engine.state.ema_model = bare.model
    seen: list[nn.Module] = []
    Evaluation(lambda model: seen.append(model) or {}, interval=1, heavy_range=0).attach(bare.engine)
    bare.run()
    assert seen == [bare.model] * 2
