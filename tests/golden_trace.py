"""Fifty training steps on seeded tensors, printed as JSON: the same before and after a change that changes no number.

``python tests/golden_trace.py`` prints the trace of this machine; ``> tests/data/golden_trace.json`` stores it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS, EPOCH_LENGTH, IMAGES, SIZE_PX = 50, 10, 4, 64
# The same kernels wherever the processor has AVX2; one thread, so that sums have one order.
PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
OBJECTIVES = {
    "plain": [],
    "dfl": ["model.head.use_dfl=true", "model.head.reg_max=16", "model.head.iou_type=giou"],
    "anchor_aided": ["train.fuse_ab=true"],
}


def environment() -> dict[str, str]:
    """What the last bits of the numbers depend on."""
    import numpy as np
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": processor or platform.processor(), "torch": torch.__version__, "numpy": np.__version__}


def trace(overrides: list[str]) -> dict[str, Any]:
    """Loss terms of every step, and digests of weights, average and optimizer at the end."""
    import torch
    from ignite.engine import Events
    from yolov6_ignite.handlers import (
        FiniteGuard,
        GradientAccumulation,
        GradientClipping,
        LearningRatePolicy,
        LossMeans,
        ModelEMA,
    )

    from yolov6_ignite import build_loss, build_model, engine, load_config
    from yolov6_ignite.data import Batch
    from yolov6_ignite.optim import build_optimizer, build_schedule

    engine.memory_format = lambda device: torch.contiguous_format  # type: ignore[assignment]
    config = load_config(
        "yolov6n",
        [
            *("model.width_multiple=0.125", "model.depth_multiple=0.1", "model.type=trace"),
            *("solver.warmup_epochs=1", "solver.warmup_min_iterations=0", "solver.reference_world_size=1"),
            *(f"data.batch_size={IMAGES}", "solver.nominal_batch_size=8", f"train.epochs={STEPS // EPOCH_LENGTH}"),
            *("augment.stop_last_n_epochs=1", "model.head.atss_warmup_epoch=2", *overrides),
        ],
    )
    torch.manual_seed(0)
    model = build_model(config.model, 3, fuse_ab=config.train.fuse_ab).train()
    optimizer = build_optimizer(config, model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    schedule = build_schedule(config, EPOCH_LENGTH)
    trainer = engine.create_trainer(
        model, build_loss(config, 3), scaler, device=torch.device("cpu"), autocast_dtype=None
    )
    average = ModelEMA(model)
    for handler in (
        LearningRatePolicy(optimizer, schedule.at),
        FiniteGuard(model, optimizer, max_bad_steps=1, keep_batch=str, exit_code=4),
        GradientClipping(optimizer, 10.0),
        GradientAccumulation(optimizer, scaler, lambda iteration: schedule.at(iteration).accumulate),
        average,
        LossMeans(),
    ):
        handler.attach(trainer)
    steps: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: steps.append({name: float(value) for name, value in engine.state.output.items()}),
    )
    generator = torch.Generator().manual_seed(1)
    batches = [_batch(Batch, generator) for _ in range(EPOCH_LENGTH)]
    trainer.run(batches, max_epochs=STEPS // EPOCH_LENGTH)
    return {
        "steps": steps,
        "model": _digest(model.state_dict()),
        "average": _digest(average.model.state_dict()),
        "momentum": _digest({str(i): s["momentum_buffer"] for i, s in optimizer.state_dict()["state"].items()}),
    }


def _batch(kind: Any, generator: Any) -> Any:
    import torch

    images = torch.randint(0, 256, (IMAGES, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8, generator=generator)
    rows = []
    for image in range(IMAGES):
        for number in range(image):  # the first image has no object
            centre, size = (
                0.3 + 0.4 * torch.rand(2, generator=generator),
                0.1 + 0.4 * torch.rand(2, generator=generator),
            )
            rows.append([image, number % 3, *centre.tolist(), *size.tolist()])
    nothing = torch.zeros(IMAGES, 6)
    return kind(images, torch.tensor(rows), [""] * IMAGES, torch.arange(IMAGES), nothing)


def _digest(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pinned_trace() -> dict[str, Any]:
    """The trace of a fresh process with pinned kernels."""
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **PINNED}, capture_output=True, text=True, check=True
    )
    content: dict[str, Any] = json.loads(done.stdout)
    return content


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in PINNED.items()):  # they are read when torch is imported
        print(json.dumps(pinned_trace()))
    else:
        traces = {name: trace(overrides) for name, overrides in OBJECTIVES.items()}
        print(json.dumps({"environment": environment(), "traces": traces}))
