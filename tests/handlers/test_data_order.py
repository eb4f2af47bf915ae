from __future__ import annotations

from typing import Any

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import AugmentationCutoff, SamplerEpoch, TrainEvents, register_train_events


class Sampler:
    def __init__(self) -> None:
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        self.epoch, self.start = epoch, start_step


class Loader:
    """Batches are (name, epoch, step)."""

    def __init__(self, name: str, length: int = 3) -> None:
        self.name, self.length = name, length
        self.batch_sampler = Sampler()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        sampler = self.batch_sampler
        return iter([(self.name, sampler.epoch, step) for step in range(sampler.start, self.length)])


def train(start: int, cutoff: int, first: Loader, epochs: int = 4) -> list[Any]:
    batches: list[Any] = []
    engine = Engine(lambda engine, batch: batches.append(batch))
    register_train_events(engine)
    AugmentationCutoff(cutoff, lambda: Loader("weak")).attach(engine)
    SamplerEpoch().attach(engine)
    if start:
        engine.load_state_dict({"epoch_length": 3, "max_epochs": epochs, "iteration": start, "optimizer_step": 0})
    engine.run(first, max_epochs=epochs, epoch_length=3)
    return batches


WHOLE = [("strong" if epoch < 2 else "weak", epoch, step) for epoch in range(4) for step in range(3)]


def test_an_uninterrupted_run_sees_every_epoch_in_its_order() -> None:
    assert train(0, 3, Loader("strong")) == WHOLE


@pytest.mark.parametrize("start", range(1, 12))
def test_a_run_resumed_anywhere_sees_the_rest(start: int) -> None:
    first = Loader("strong" if start // 3 + 1 < 3 else "weak")
    assert train(start, 3, first) == WHOLE[start:]


def test_another_length_after_the_cutoff_is_refused() -> None:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    AugmentationCutoff(2, lambda: Loader("weak", 5)).attach(engine)
    with pytest.raises(RuntimeError, match="5 batches, not 3"):
        engine.run(Loader("strong"), max_epochs=2)


def test_cutoff_in_the_first_epoch_swaps_at_once() -> None:
    assert {batch[0] for batch in train(0, 1, Loader("strong"))} == {"weak"}


def test_filters_count_what_the_event_counts() -> None:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    seen: list[int] = []
    every_second = TrainEvents.OPTIMIZER_STEP_COMPLETED(every=2)
    engine.add_event_handler(every_second, lambda engine: seen.append(engine.state.optimizer_step))

    def step(engine: Engine) -> None:
        engine.state.optimizer_step += 1
        engine.fire_event(TrainEvents.OPTIMIZER_STEP_COMPLETED)

    engine.add_event_handler(Events.ITERATION_COMPLETED, step)
    engine.run([0] * 5, max_epochs=1)
    assert seen == [2, 4]
