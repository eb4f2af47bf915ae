"""Milliseconds of non-maximum suppression for a batch, for typical stages of training.

Run ``python benchmarks/nms.py [--device cuda] [--batch 32]``. ``untrained``: every score a little above the
confidence threshold, hundreds of thousands of candidates. ``early``: thousands. ``late``: hundreds around real
objects. ``crowd``: one class, all boxes on few places, so that suppression has to look at every candidate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from yolov6_ignite.metrics.nms import non_max_suppression

ANCHORS = 8400  # of 640 x 640
IMAGE_PX = 640


def _boxes(batch: int, generator: torch.Generator) -> Tensor:
    centre = torch.rand(batch, ANCHORS, 2, generator=generator) * IMAGE_PX
    size = 8 + torch.rand(batch, ANCHORS, 2, generator=generator) ** 2 * 200
    return torch.cat((centre, size, torch.ones(batch, ANCHORS, 1)), dim=-1)


def untrained(batch: int, generator: torch.Generator) -> Tensor:
    """80 classes, all scores 0.03 to 0.034."""
    scores = 0.0301 + 0.004 * torch.rand(batch, ANCHORS, 80, generator=generator)
    return torch.cat((_boxes(batch, generator), scores), dim=-1)


def early(batch: int, generator: torch.Generator) -> Tensor:
    """80 classes, one score in a hundred above the threshold."""
    scores = 0.04 * torch.rand(batch, ANCHORS, 80, generator=generator) ** 0.25 - 0.01
    scores = torch.where(torch.rand(scores.shape, generator=generator) < 0.02, scores + 0.01, scores - 0.01)
    return torch.cat((_boxes(batch, generator), scores.clamp(min=0)), dim=-1)


def late(batch: int, generator: torch.Generator) -> Tensor:
    """80 classes, 20 objects with about 30 candidates each."""
    predictions = torch.cat((_boxes(batch, generator), torch.zeros(batch, ANCHORS, 80)), dim=-1)
    objects = predictions[:, :20, :4].repeat_interleave(30, dim=1)
    predictions[:, :600, :4] = objects + 4 * torch.randn(objects.shape, generator=generator)
    label = torch.randint(80, (batch, 20, 1), generator=generator).repeat_interleave(30, dim=1)
    predictions[:, :600, 5:].scatter_(2, label, torch.rand(batch, 600, 1, generator=generator))
    return predictions


def crowd(batch: int, generator: torch.Generator) -> Tensor:
    """One class, every anchor a candidate around one of 100 places."""
    predictions = torch.cat((_boxes(batch, generator), torch.zeros(batch, ANCHORS, 1)), dim=-1)
    places = predictions[:, torch.randint(100, (ANCHORS,), generator=generator), :4]
    predictions[..., :4] = places + 2 * torch.randn(places.shape, generator=generator)
    predictions[..., 5:] = 0.1 + 0.9 * torch.rand(batch, ANCHORS, 1, generator=generator)
    return predictions


LOADS: tuple[Callable[[int, torch.Generator], Tensor], ...] = (untrained, early, late, crowd)


def measure(predictions: Tensor, repeats: int) -> tuple[float, int, int]:
    """Best time of a batch in milliseconds, candidates and detections an image."""
    best_s = float("inf")
    for _ in range(repeats):
        if predictions.is_cuda:
            torch.cuda.synchronize()
        started_s = time.perf_counter()
        detections = non_max_suppression(predictions, conf_threshold=0.03, iou_threshold=0.65)
        if predictions.is_cuda:
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - started_s)
    batch = len(predictions)
    candidates = int((predictions[..., 5:] > 0.03).sum()) // batch
    return best_s * 1e3, candidates, sum(len(rows) for rows in detections) // batch


def main() -> None:
    """Print one line a load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'load':<10} {'candidates':>11} {'detections':>11} {'ms/batch':>10} {'ms/image':>10} {'peak MB':>9}")
    for load in LOADS:
        predictions = load(arguments.batch, torch.Generator().manual_seed(0)).to(arguments.device)
        if predictions.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        ms, candidates, detections = measure(predictions, arguments.repeats)
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if predictions.is_cuda else "-"
        name, per_image = load.__name__, ms / len(predictions)
        print(f"{name:<10} {candidates:>11} {detections:>11} {ms:>10.1f} {per_image:>10.2f} {peak:>9}")


if __name__ == "__main__":
    main()
