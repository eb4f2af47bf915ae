"""``yolov6-ignite models``: the recipes with their cost, counted here, and their published accuracy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from yolov6_ignite.command import run_command
from yolov6_ignite.config_file import load_config, recipe_names

__all__ = ["MODELS", "PUBLISHED", "ModelRow", "Published", "main", "model_rows"]

RELEASE = "YOLOv6 4.0"
V3 = "YOLOv6 3.0"
V2 = "YOLOv6 2.0, 300 epochs"
INT8 = "YOLOv6 4.0, in INT8"
NUM_CLASSES = 80  # of COCO, for which the published numbers are


class Published(NamedTuple):
    """Accuracy and speed that the authors measured on COCO val2017 (specification, users D.1)."""

    ap: float  # percent
    image_size_px: int
    fps_t4: int | None  # T4, TensorRT, fp16, one image at a time
    source: str


PUBLISHED = {
    "yolov6n": Published(37.5, 640, 779, RELEASE),
    "yolov6s": Published(45.0, 640, 339, RELEASE),
    "yolov6m": Published(50.0, 640, 175, RELEASE),
    "yolov6l": Published(52.8, 640, 98, RELEASE),
    "yolov6n6": Published(44.9, 1280, 228, RELEASE),
    "yolov6s6": Published(50.3, 1280, 98, RELEASE),
    "yolov6m6": Published(55.2, 1280, 47, RELEASE),
    "yolov6l6": Published(57.2, 1280, 26, RELEASE),
    "base/yolov6n_base": Published(36.6, 640, None, V3),
    "base/yolov6s_base": Published(45.3, 640, None, V3),
    "base/yolov6m_base": Published(49.4, 640, None, V3),
    "base/yolov6l_base": Published(51.1, 640, None, V3),
    "mbla/yolov6s_mbla": Published(47.0, 640, 300, RELEASE),
    "mbla/yolov6m_mbla": Published(50.3, 640, 168, RELEASE),
    "mbla/yolov6l_mbla": Published(52.0, 640, 129, RELEASE),
    "mbla/yolov6x_mbla": Published(53.5, 640, 78, RELEASE),
    "yolov6_lite/yolov6_lite_s": Published(22.4, 320, None, RELEASE),
    "yolov6_lite/yolov6_lite_m": Published(25.1, 320, None, RELEASE),
    "yolov6_lite/yolov6_lite_l": Published(28.0, 320, None, RELEASE),
    "qarepvgg/yolov6n_qa": Published(37.1, 640, None, RELEASE),
    "qarepvgg/yolov6s_qa": Published(44.7, 640, None, RELEASE),
    "qarepvgg/yolov6m_qa": Published(49.7, 640, None, RELEASE),
    "qarepvgg/yolov6n_qa_ptq": Published(36.4, 640, None, INT8),
    "qarepvgg/yolov6s_qa_ptq": Published(44.0, 640, None, INT8),
    "qarepvgg/yolov6m_qa_ptq": Published(49.4, 640, None, INT8),
    "repopt/yolov6s_opt_ptq": Published(42.6, 640, None, INT8),
    "repopt/yolov6n_opt_qat": Published(34.8, 640, None, INT8),
    "repopt/yolov6_tiny_opt_qat": Published(39.8, 640, None, INT8),
    "repopt/yolov6s_opt_qat": Published(43.3, 640, None, INT8),
    "experiment/yolov6t": Published(40.3, 640, None, V2),
}

MODELS = (
    *(f"yolov6{size}" for size in ("n", "s", "m", "l", "n6", "s6", "m6", "l6")),
    *(f"base/yolov6{size}_base" for size in "nsml"),
    *(f"mbla/yolov6{size}_mbla" for size in "smlx"),
    *(f"yolov6_lite/yolov6_lite_{size}" for size in "sml"),
    *(f"qarepvgg/yolov6{size}_qa" for size in "nsm"),
    *(f"repopt/yolov6{size}_{stage}" for size in ("n", "_tiny", "s") for stage in ("hs", "opt")),
    "experiment/yolov6n_with_eval_params",
    "experiment/yolov6t",
    "experiment/yolov6t_csp_scaled",
    "experiment/yolov6s_csp_scaled",
)  # one recipe a network; the others fine-tune these


class ModelRow(NamedTuple):
    """A recipe's network as it is deployed, for the 80 classes of COCO."""

    recipe: str
    image_size_px: int  # that it is evaluated at
    stride: int
    parameters: int
    gflops: float
    published: Published | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="yolov6-ignite models",
        description="The models: cost when deployed, counted here for 80 classes and the size that the model is "
        "evaluated at, and the average precision on COCO val2017 and the frames a second on a T4 (TensorRT, fp16, "
        "one image at a time) that the authors published.",
    )
    parser.add_argument("--all", action="store_true", help="every recipe, also those that fine-tune a model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a JSON file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _models(options))


def _models(options: argparse.Namespace) -> int:
    from yolov6_ignite.checkpoint import write_text

    recipes = [*MODELS, *(name for name in recipe_names() if name not in MODELS)] if options.all else MODELS
    width = max(len(recipe) for recipe in recipes)
    print(_line(width, "recipe", "size px", "stride", "params M", "GFLOPs", "AP", "FPS T4", "published with"))
    rows = []
    for row in model_rows(recipes):
        print(_row_line(width, row), flush=True)  # each as soon as it is counted: together they take seconds
        rows.append(row)
    if options.json is not None:
        write_text(options.json, json.dumps([_to_json(row) for row in rows], indent=2) + "\n")
    return 0


def model_rows(recipes: Iterable[str]) -> Iterator[ModelRow]:
    """What every recipe's network costs; each network is built once, without memory for its weights."""
    import torch

    from yolov6_ignite.models import build_model, count_parameters, gflops

    costs: dict[tuple[str, int], tuple[int, float]] = {}
    for recipe in recipes:
        config = load_config(recipe)
        size = config.eval.image_size or max(config.data.height_width)
        network = config.model.model_dump_json(exclude={"type": True, "head": {"anchors_init", "iou_type"}})
        if (network, size) not in costs:
            with torch.device("meta"):
                model = build_model(config.model, NUM_CLASSES)
            model = model.deploy()
            costs[network, size] = (count_parameters(model), gflops(model, size))
        stride = max(config.model.head.strides)
        yield ModelRow(recipe, size, stride, *costs[network, size], PUBLISHED.get(recipe))


def _row_line(width: int, row: ModelRow) -> str:
    cost = (str(row.image_size_px), str(row.stride), f"{row.parameters / 1e6:.2f}", f"{row.gflops:.2f}")
    if row.published is None:
        return _line(width, row.recipe, *cost, "-", "-", "-")
    ap, fps, source = row.published.ap, row.published.fps_t4, row.published.source
    return _line(width, row.recipe, *cost, f"{ap:.1f}", str(fps or "-"), source)


def _line(width: int, recipe: str, size: str, stride: str, params: str, flops: str, ap: str, fps: str, src: str) -> str:
    return f"{recipe:<{width}}  {size:>7}  {stride:>6}  {params:>8}  {flops:>7}  {ap:>5}  {fps:>6}  {src}"


def _to_json(row: ModelRow) -> dict[str, object]:
    return {**row._asdict(), "published": None if row.published is None else row.published._asdict()}


if __name__ == "__main__":
    sys.exit(main())
