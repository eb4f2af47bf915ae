"""Two gloo ranks: whole runs by both launchers, and equal gradients for 1 x B and 2 x B/2."""

from __future__ import annotations

import csv
import gc
import socket
import subprocess
import sys
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from yolov6_ignite import build_training, load_config
from yolov6_ignite.checkpoint import read_checkpoint


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_both_launchers_train_alike_and_evaluate_as_one_process_does(tiny_recipe: Path) -> None:
    overrides = [str(tiny_recipe), "train.epochs=2", "eval.interval=1"]
    spawned = run(["yolov6_ignite.train", *overrides, "train.devices=2", "train.name=spawned"])
    assert spawned.returncode == 0, spawned.stderr
    launched = run(
        [
            "torch.distributed.run",
            "--nproc_per_node=2",
            f"--master_port={free_port()}",
            "-m",
            "yolov6_ignite.train",
            *overrides,
            "train.name=launched",
        ]
    )
    assert launched.returncode == 0, launched.stderr
    runs = tiny_recipe.parent / "runs"
    ours, theirs = rows(runs / "spawned"), rows(runs / "launched")
    assert ours == theirs
    assert spawned.stderr.count("epoch 1/2") == 1  # one writer
    weights = runs / "spawned" / "weights"
    assert read_checkpoint(weights / "last_ckpt.pt")["world_size"] == 2

    # The same averaged weights, evaluated by one process, give the numbers that the two ranks agreed on.
    training = build_training(load_config(tiny_recipe, ["train.name=single"]))
    training.ema_model.load_state_dict(read_checkpoint(weights / "last_ckpt.pt")["ema"])
    metrics = training._evaluate(training.ema_model)
    assert {name: float(ours[-1][name]) for name in metrics} == metrics


def test_another_number_of_ranks_does_not_resume(tiny_recipe: Path) -> None:
    # One validation batch for two ranks: both evaluate it.
    first = [str(tiny_recipe), "train.epochs=1", "train.resume=auto", "train.devices=2", "eval.batch_size=8"]
    result = run(["yolov6_ignite.train", *first])
    assert result.returncode == 0, result.stderr
    result = run(["yolov6_ignite.train", *first[:1], "train.epochs=2", "train.resume=auto"])
    assert result.returncode == 2
    assert "number of ranks: 2 -> 1" in result.stderr


def test_a_stop_inside_an_epoch_resumes_on_two_ranks(tiny_recipe: Path) -> None:
    """SIGTERM to the launching process only: both ranks save and end, and the run goes on as if nothing had been."""
    recipe = [str(tiny_recipe), "train.devices=2", "eval.final_only=true", "train.resume=auto", "train.epochs=30"]
    command = [sys.executable, "-u", "-m", "yolov6_ignite.train", *recipe, "train.name=stopped"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 75, rest
    assert "Traceback" not in rest
    resumed = run(command[3:])
    assert resumed.returncode == 0, resumed.stderr
    whole = run(["yolov6_ignite.train", *recipe, "train.name=whole"])
    assert whole.returncode == 0, whole.stderr
    runs = tiny_recipe.parent / "runs"
    for stopped_row, whole_row in zip(rows(runs / "stopped"), rows(runs / "whole"), strict=True):
        for name, value in whole_row.items():
            assert stopped_row[name] == value or float(stopped_row[name]) == pytest.approx(float(value), rel=1e-6), name


def test_an_error_of_rank_zero_ends_all_ranks_with_its_code(tiny_recipe: Path) -> None:
    result = run(["yolov6_ignite.train", str(tiny_recipe), "train.devices=2", "data.dataset=nowhere.yaml"])
    assert result.returncode == 3
    assert result.stderr.count("error: ") == 1


def _frozen_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(False)


class _Until:
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.steps), lambda engine: engine.terminate())


def _train_steps(recipe: str, overrides: list[str], steps: int) -> dict[str, torch.Tensor]:
    training = build_training(load_config(recipe, overrides))
    _frozen_batch_norm(training.model)
    training.handlers.add("until", _Until(steps))
    training.engine.run(training.train_loader, max_epochs=training.config.train.epochs)
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


def _rank(local_rank: int, recipe: str, overrides: list[str], steps: int, out: str) -> None:
    weights = _train_steps(recipe, overrides, steps)
    if idist.get_rank() == 0:
        torch.save(weights, out)
    gc.collect()  # the wrapped model's threads end before the process group, as in train.py
    idist.barrier()


@pytest.mark.parametrize("dfl", [False, True])
def test_one_by_b_equals_two_by_half_b(tiny_recipe: Path, tmp_path: Path, dfl: bool) -> None:
    """Ten optimizer steps in fp32, batch norm frozen; boxes are spread unevenly over the ranks."""
    overrides = [
        "data.batch_size=4",
        "solver.nominal_batch_size=4",
        "train.epochs=10",
        "augment.mosaic=0",
        "augment.stop_last_n_epochs=0",
        "solver.warmup_epochs=0",
        "solver.lr0=0.5",
        "eval.final_only=true",
        "solver.momentum=0.5",
        f"model.head.use_dfl={str(dfl).lower()}",
        f"model.head.reg_max={16 if dfl else 0}",
    ]
    one = _train_steps(str(tiny_recipe), [*overrides, "train.name=one"], 10)
    out = tmp_path / "two.pt"
    with idist.Parallel("gloo", nproc_per_node=2, master_addr="127.0.0.1", master_port=free_port()) as parallel:
        parallel.run(_rank, str(tiny_recipe), [*overrides, "train.devices=2", "train.name=two"], 10, str(out))
    two = torch.load(out, weights_only=True)
    start = build_training(load_config(tiny_recipe, overrides)).model
    moved = 0.0
    for name, before in start.named_parameters():
        change = one[name] - before.detach()
        moved = max(moved, float(change.abs().max()))
        assert torch.allclose(two[name], one[name], rtol=1e-4, atol=1e-5), name
    assert moved > 1e-3
