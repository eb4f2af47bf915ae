"""``python -m yolov6_ignite.evaluate WEIGHTS --data DATASET.yaml``"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolov6_ignite.command import log_to_console, run_command
from yolov6_ignite.config_file import apply_overrides, parse_overrides
from yolov6_ignite.errors import ConfigError

if TYPE_CHECKING:
    from yolov6_ignite.config import Config
    from yolov6_ignite.exporting import OnnxDetector
    from yolov6_ignite.models import Detector

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates weights on a data set; returns the exit code (0 done, 2 usage or weights, 3 data set)."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m yolov6_ignite.evaluate",
        description="COCO average precision of a checkpoint. Sizes and thresholds are those of the training that "
        "it comes from, so best_ckpt.pt gives the AP that its log printed.",
    )
    parser.add_argument("weights", help="best_ckpt.pt, ..., an official .pt (downloaded when missing), or a .onnx")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for example eval.shrink_px=4")
    parser.add_argument("--data", help="data set file; default: the one that the weights were trained on")
    parser.add_argument("--split", choices=("val", "test", "train"), default="val")
    parser.add_argument("--image-size", type=int, metavar="PX")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--conf-threshold", type=float)
    parser.add_argument("--iou-threshold", type=float)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a JSON file")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write the plots into a folder")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _evaluate(options))


def _evaluate(options: argparse.Namespace) -> int:
    from yolov6_ignite.checkpoint import write_text
    from yolov6_ignite.data import index_split, load_dataset_file
    from yolov6_ignite.distributed import memory_format, resolve_device
    from yolov6_ignite.evaluation import CocoEvaluation
    from yolov6_ignite.models import Detector

    log_to_console(logging.WARNING)
    model, config = _load(options.weights)
    given = {
        "eval.image_size": options.image_size,
        "eval.batch_size": options.batch_size,
        "eval.conf_threshold": options.conf_threshold,
        "eval.iou_threshold": options.iou_threshold,
        "data.workers": options.workers,
        "data.dataset": options.data,
    }
    given = {key: value for key, value in given.items() if value is not None}
    overrides = parse_overrides(options.overrides)
    for key in overrides:
        if not key.startswith(("eval.", "data.")):
            raise ConfigError(f"{key}: has no meaning for evaluation; keys of eval and data can be set")
    config = apply_overrides(config, {**overrides, **given})
    if config.data.dataset is None:
        raise ConfigError("--data is missing: give the data set file to evaluate on")
    if isinstance(model, Detector):
        device = resolve_device(options.device or "auto")
    else:
        device = model.device_for(config, options.device or "auto")
    dataset = load_dataset_file(config.data.dataset, splits=(options.split,))
    if len(dataset.names) != model.num_classes:
        raise ConfigError(
            f"{options.weights}: detects {model.num_classes} classes, but {dataset.path} names {len(dataset.names)}; "
            "give the data set that it was trained for"
        )
    if options.split != "val":  # anno_path is of the validation images
        dataset = dataclasses.replace(dataset, annotations=None)
    index = index_split(getattr(dataset, options.split), dataset.names, config.data)
    seconds: dict[str, float] = {}
    evaluation = CocoEvaluation(index, dataset, config, device=device, seconds=seconds)
    # As in training: scores that are almost equal come in the same order.
    result = evaluation(model.to(device, memory_format=memory_format(device)))  # type: ignore[call-overload]
    evaluation.close()
    speed = {f"{stage}_ms": 1000 * s / len(index.paths) for stage, s in seconds.items()}
    print(result.table())
    print(result.per_class_table())
    if evaluation.losses:
        print("losses: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluation.losses.items()))
    print("speed, ms an image: " + ", ".join(f"{name.removesuffix('_ms')} {ms:.2f}" for name, ms in speed.items()))
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        evaluation.draw_plots(options.plots)
    if options.json is not None:
        write_text(
            options.json, json.dumps({**result.to_json(), "losses": evaluation.losses, "speed": speed}, indent=2) + "\n"
        )
    return 0


def _load(weights: str) -> tuple[Detector | OnnxDetector, Config]:
    """The model, or the exported file that stands for it, and what it was trained with."""
    if Path(weights).suffix.lower() == ".onnx":
        from yolov6_ignite.exporting import load_onnx_detector

        model = load_onnx_detector(weights)
        return model, model.config
    from yolov6_ignite.weights import load_model_and_config

    return load_model_and_config(weights)


if __name__ == "__main__":
    sys.exit(main())
