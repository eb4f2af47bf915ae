"""``--explain``: every value with its origin, and what a run would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from yolov6_ignite.compose import first_epoch_without_strong_augmentation
from yolov6_ignite.config import Config
from yolov6_ignite.data import index_split, load_dataset_file
from yolov6_ignite.data.class_balance import image_repeat_factors
from yolov6_ignite.errors import UserError
from yolov6_ignite.handlers.evaluation import evaluated_epochs
from yolov6_ignite.models import build_model, count_parameters, gflops
from yolov6_ignite.optim import build_schedule

__all__ = ["explain"]


def explain(config: Config, origins: Mapping[str, str]) -> str:
    """The resolved configuration and the plan as text; trains nothing and writes no run."""
    rows = [(key, repr(value), origins.get(key, "default")) for key, value in _leaves(config.model_dump(mode="json"))]
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(44, max(len(value) for _, value, _ in rows))
    lines = [f"{key:<{key_width}}  {value:<{value_width}}  {origin}" for key, value, origin in rows]
    return "\n".join([*lines, "", *_plan(config)])


def _plan(config: Config) -> list[str]:
    epochs, height_width = config.train.epochs, config.data.height_width
    lines = ["plan"]
    num_classes, images = 80, None
    try:
        if config.data.dataset is None:
            lines.append("  data.dataset is not set: parameters are those of 80 classes")
        else:
            dataset = load_dataset_file(config.data.dataset)
            num_classes = len(dataset.names)
            index = index_split(dataset.train, dataset.names, config.data)
            images = round(float(image_repeat_factors(index, config.data.repeat_factor).sum()))
            shown = "" if images == len(index) else f", {images} shown an epoch"
            lines.append(f"  data: {len(index)} training images{shown}, {num_classes} classes")
    except UserError as error:
        lines.append(f"  data: {error}")
    with torch.device("meta"):  # shapes are enough
        model = build_model(config.model, num_classes, fuse_ab=config.train.fuse_ab, distill_ns=config.distill_ns)
        deployed = model.deploy()
    lines.append(
        f"  model: {config.model.type}, {count_parameters(model):,} parameters; deployed "
        f"{count_parameters(deployed):,} and {gflops(deployed, height_width):.2f} GFLOPs "
        f"at {height_width[0]} x {height_width[1]} px"
    )
    quant = config.quant
    if quant.mode == "ptq":
        wanted = quant.batches * config.eval.batch_size
        calibrated_on = wanted if images is None else min(wanted, len(index))
        lines.append(
            f"  calibration of {config.train.weights or '(train.weights is not set, but needed)'} on {calibrated_on} "
            f"training images, not augmented: {quant.method}, {quant.bits} bits, for {quant.target}; nothing is trained"
        )
        if quant.skip:
            count = f", its first {quant.most_sensitive}" if quant.most_sensitive else ""
            lines.append(f"  layers in floating point: {quant.skip}{count}")
        if quant.sensitivity:
            lines.append("  then an evaluation for every layer, quantised alone")
        return lines
    if quant.mode == "qat":
        lines.append(
            f"  quantised as {quant.calibrated or '(quant.calibrated is not set, but needed)'} says; ranges stay"
        )
    cutoff = first_epoch_without_strong_augmentation(config)
    if cutoff is None or cutoff > epochs:
        lines.append(
            "  mosaic and mixup: " + ("on to the end" if config.augment.mosaic or config.augment.mixup else "off")
        )
    else:
        before = f"epochs 1 to {cutoff - 1}, " if cutoff > 1 else ""
        lines.append(f"  mosaic and mixup: {before}off from epoch {cutoff}")
    evaluated = evaluated_epochs(
        epochs,
        interval=config.eval.interval,
        heavy_range=config.eval.heavy_range,
        final_only=config.eval.final_only,
    )
    lines.append(f"  evaluation after epochs: {', '.join(map(str, evaluated))}")
    last_n = config.checkpoint.last_n_epochs
    lines.append("  checkpoints: last (every epoch), best" + (f", and of the last {last_n} epochs" if last_n else ""))
    if images is None or config.data.batch_size == "auto":
        missing = "the data set is there" if images is None else "data.batch_size: auto has been measured"
        return [*lines, f"  learning rates: known once {missing}"]
    epoch_length = -(-images // config.data.images_per_batch)
    schedule = build_schedule(config, epoch_length)
    lines.append(
        f"  {epoch_length} iterations an epoch, {epochs * epoch_length} in all; "
        f"warm-up over the first {schedule.warmup_iterations}"
    )
    if schedule.warmup_iterations >= epochs * epoch_length:
        lines.append("  warning: the whole run is warm-up; lower solver.warmup_min_iterations or train longer")
    lines.append("  epoch  lr at its first iteration: batch norm, weights, biases; momentum; accumulated batches")
    for epoch in range(epochs):
        at = schedule.at(epoch * epoch_length)
        lr = "  ".join(f"{value:.6f}" for value in at.lr)
        lines.append(f"  {epoch + 1:>5}  {lr}  {at.momentum:.4f}  {at.accumulate}")
    return lines


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
