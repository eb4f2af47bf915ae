"""The schedule and the accumulation handler against the reference's traces."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine
from yolov6_ignite.handlers import GradientAccumulation, TrainEvents, register_train_events
from yolov6_ignite.handlers.ema import ema_decay

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.optim import DECAYS, Schedule, build_schedule
from yolov6_ignite.optim.optimizer import scaled_weight_decay

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "schedule"
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "schedule"

# name: epochs, iterations an epoch, batch, warm-up epochs, optimizer, lr0 and weight decay after rescaling
TRACES = {
    "small": (4, 30, 16, 3, "SGD", 0.01, 0.0005),
    "batch24": (6, 200, 24, 3, "SGD", 0.015, 0.0005625),
    "batch32": (12, 110, 32, 3, "SGD", 0.02, 0.0005),
    "batch64": (3, 450, 64, 1, "SGD", 0.04, 0.0005),
    "batch128": (3, 400, 128, 3, "SGD", 0.08, 0.001),
    "adam": (2, 520, 16, 1, "Adam", 0.01, 0.0005),
}

load_yolov6n = functools.cache(lambda: load_config("yolov6n"))


def config_of(name: str) -> Config:
    epochs, _, batch, warmup, optim, *_ = TRACES[name]
    overrides = [
        f"train.epochs={epochs}",
        "augment.stop_last_n_epochs=0",
        f"data.batch_size={batch}",
        f"solver.warmup_epochs={warmup}",
        f"solver.optim={optim}",
        "solver.lr0=0.02",
        "solver.reference_world_size=1",
    ]
    return load_config("yolov6n", overrides)


def rows_of(name: str) -> list[dict[str, str]]:
    path = next((p for p in (FIXTURES / f"{name}.csv", GOLDEN / f"{name}.csv") if p.exists()), None)
    if path is None:
        pytest.skip("needs the golden traces")
    with path.open() as file:
        return list(csv.DictReader(file))


def reference_epoch_factor(schedule: Schedule, iteration: int) -> float:
    """After warm-up the reference uses the factor of the epoch before, except in the epoch that warm-up ends in."""
    epoch, warm = divmod(iteration, schedule.epoch_length)[0], schedule.warmup_iterations // schedule.epoch_length
    return schedule.epoch_factor(epoch if epoch == warm else epoch - 1)


def optimizer_steps(schedule: Schedule, iterations: int) -> dict[int, int]:
    """Runs the accumulation handler on an empty step; iteration to optimizer steps so far, where one was taken."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    engine = Engine(lambda engine, batch: engine.fire_event(TrainEvents.BACKWARD_COMPLETED))
    register_train_events(engine)
    GradientAccumulation(optimizer, scaler, lambda iteration: schedule.at(iteration).accumulate).attach(engine)
    steps: dict[int, int] = {}
    engine.add_event_handler(
        TrainEvents.OPTIMIZER_STEP_COMPLETED,
        lambda engine: steps.update({engine.state.iteration - 1: engine.state.optimizer_step}),
    )
    engine.run(range(iterations), max_epochs=1)
    return steps


@pytest.mark.parametrize("name", TRACES)
def test_golden_trace(name: str) -> None:
    rows = rows_of(name)
    epochs, epoch_length, batch, _, optim, lr0, weight_decay = TRACES[name]
    schedule = build_schedule(config_of(name), epoch_length)
    assert schedule.lr0 == pytest.approx(lr0)
    assert scaled_weight_decay(0.0005, batch, 64) == pytest.approx(weight_decay)
    steps = optimizer_steps(schedule, epochs * epoch_length)
    seen_after_warmup = 0
    for row in rows:
        iteration = int(row["epoch"]) * epoch_length + int(row["step"])
        settings = schedule.at(iteration)
        expected = [float(row[f"lr_{group}"]) for group in ("bn", "weight", "bias")]
        if iteration <= schedule.warmup_iterations:
            assert settings.lr == pytest.approx(expected, rel=1e-9, abs=1e-15)
        else:
            seen_after_warmup += 1
            assert expected == pytest.approx([lr0 * reference_epoch_factor(schedule, iteration)] * 3, rel=1e-9)
            own = lr0 * schedule.epoch_factor(int(row["epoch"]))
            assert settings.lr == pytest.approx([own] * 3, rel=1e-9)
        if optim == "SGD":
            assert settings.momentum == pytest.approx(float(row["momentum_or_beta1"]), rel=1e-9)
        assert settings.accumulate == int(row["accumulate"])
        assert (iteration in steps) == (row["optimizer_stepped"] == "1")
        if iteration in steps:
            assert steps[iteration] == int(row["ema_updates"])
            assert ema_decay(steps[iteration]) == pytest.approx(float(row["ema_decay"]), rel=1e-9)
    assert len(steps) == sum(row["optimizer_stepped"] == "1" for row in rows)
    assert (seen_after_warmup > 0) == (epochs * epoch_length > schedule.warmup_iterations + 1)


def test_no_warmup_starts_at_the_full_rate() -> None:
    config = load_config("yolov6n", ["solver.warmup_epochs=0", "solver.warmup_min_iterations=0", "data.batch_size=32"])
    at = build_schedule(config, 10).at(0)
    assert at.lr == pytest.approx((0.0025,) * 3)
    assert at.momentum == 0.937
    assert at.accumulate == 2


def test_constant_schedule_and_last_epoch_of_the_cosine() -> None:
    base = ["train.epochs=20", "solver.warmup_min_iterations=0", "solver.warmup_epochs=0"]
    constant = build_schedule(load_config("yolov6n", [*base, "solver.lr_scheduler=Constant"]), 5)
    assert {constant.epoch_factor(epoch) for epoch in range(20)} == {1.0}
    cosine = build_schedule(load_config("yolov6n", base), 5)
    assert cosine.epoch_factor(20) == pytest.approx(0.01)
    factors = [cosine.epoch_factor(epoch) for epoch in range(20)]
    assert factors == sorted(factors, reverse=True)


def test_linear_schedule_goes_straight_to_the_end_of_the_run() -> None:
    base = ["train.epochs=4", "augment.stop_last_n_epochs=0", "solver.lr_scheduler=Linear", "solver.lrf=0.2"]
    linear = build_schedule(load_config("yolov6n", base), 5)
    assert [linear.epoch_factor(epoch) for epoch in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@given(st.sampled_from(sorted(DECAYS)), st.integers(1, 500), st.floats(0, 1))
def test_every_schedule_starts_at_one_and_never_rises(name: str, epochs: int, lrf: float) -> None:
    base = build_schedule(load_yolov6n(), 5)
    schedule = dataclasses.replace(base, decay=name, epochs=epochs, lrf=lrf)
    factors = [schedule.epoch_factor(epoch) for epoch in range(epochs + 1)]
    assert factors[0] == 1.0
    assert all(after <= before for before, after in itertools.pairwise(factors))
    assert factors[-1] == pytest.approx(1.0 if name == "Constant" else lrf, abs=1e-12)


def test_a_schedule_of_ones_own() -> None:
    base = build_schedule(load_config("yolov6n", ["solver.warmup_epochs=0", "solver.warmup_min_iterations=0"]), 10)
    steps = dataclasses.replace(base, decay=lambda progress: 0.0 if progress < 0.5 else 1.0)
    assert steps.at(10 * 149 + 9).lr[0] == pytest.approx(0.01)
    assert steps.at(10 * 150).lr[0] == pytest.approx(0.01 * 0.01)


def test_lr0_is_rescaled_by_the_reference_batch() -> None:
    official = build_schedule(load_config("yolov6n"), 10)
    assert official.lr0 == pytest.approx(0.02 * 128 / (8 * 32))
