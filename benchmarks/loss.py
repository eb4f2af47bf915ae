"""What the loss costs: its time as a share of the network's forward pass, and its memory.

    python benchmarks/loss.py [--device cuda] [--memory]

Time: YOLOv6-N in train mode, forward without recording gradients, against forward and backward of the loss on
predictions of the same shapes, in turns; medians, and the median of the ratios. Memory: 1,000 objects in every
image, peak on top of the predictions and their gradients; on the CPU that of the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import seconds
from torch import Tensor

from yolov6_ignite.config_file import load_config
from yolov6_ignite.losses import DetectionLoss
from yolov6_ignite.models import DetectorOutput, build_model

STRIDES = (8, 16, 32)
VARIANTS: dict[str, tuple[dict[str, Any], int]] = {  # name: settings of the loss, epoch
    "siou": ({"iou_type": "siou"}, 1),
    "giou + dfl": ({"iou_type": "giou", "reg_max": 16}, 1),
    "giou + dfl, atss": ({"iou_type": "giou", "reg_max": 16, "atss_warmup_epochs": 1}, 0),
}


def main() -> None:
    """Measures and prints one line a variant of the loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=640, help="pixels")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, help="objects an image; default 60, or 1000 with --memory")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    args = parser.parse_args()
    args.boxes = args.boxes or (1000 if args.memory else 60)
    print(f"batch {args.batch}, {args.size} px, {args.classes} classes, {args.boxes} objects an image, {args.device}")
    measure = measure_memory if args.memory else measure_time
    # A process each: the high-water mark of one says nothing about the next.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in VARIANTS:
            print(f"{name:18}{pool.apply(measure, (name, args))}")


def measure_time(name: str, args: argparse.Namespace) -> str:
    """Network and loss in turns."""
    step, _ = make_step(name, args)
    device = torch.device(args.device)
    network = build_model(load_config("yolov6n").model, args.classes).to(device)
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)

    @torch.no_grad()
    def forward() -> None:
        network(images)

    pairs = [(seconds(forward, device), seconds(step, device)) for _ in range(args.repeats + 2)][2:]
    network_ms, loss_ms = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return f"network {network_ms:7.1f} ms, loss {loss_ms:6.1f} ms, ratio {ratio:.3f}"


def measure_memory(name: str, args: argparse.Namespace) -> str:
    """Peak of one step, less the gradients of the predictions."""
    step, output = make_step(name, args)
    gradients = sum(x.numel() * x.element_size() for x in (output.logits, output.distances))
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = resident_bytes()
        step()
        peak = peak_resident_bytes()
    return f"{(peak - before - gradients) / 2**20:7.0f} MiB"


def make_step(name: str, args: argparse.Namespace) -> tuple[Callable[[], None], DetectorOutput]:
    """Forward and backward of a variant of the loss, and the predictions that it works on."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    settings, epoch = VARIANTS[name]
    loss = DetectionLoss(args.classes, strides=STRIDES, **settings)
    targets = random_targets(args.batch, args.boxes, args.classes)
    output = random_output(args.batch, args.size, args.classes, settings.get("reg_max", 0), torch.device(args.device))

    def step() -> None:
        output.logits.grad = output.distances.grad = None
        total, _ = loss(output, targets, epoch=epoch, max_epochs=300, image_size=(args.size, args.size))
        total.backward()

    return step, output


def random_targets(batch: int, boxes: int, classes: int) -> Tensor:
    """Targets (batch x boxes, 6) with sides of 2 to 40 % of the image."""
    n = batch * boxes
    sides = 0.02 + 0.38 * torch.rand(n, 2) ** 2
    centres = sides / 2 + torch.rand(n, 2) * (1 - sides)
    image = torch.arange(batch).repeat_interleave(boxes)
    return torch.cat((image[:, None], torch.randint(classes, (n, 1)), centres, sides), dim=1)


def random_output(batch: int, size: int, classes: int, reg_max: int, device: torch.device) -> DetectorOutput:
    """Predictions like those of a network that has learnt a little."""
    maps = tuple(torch.empty(batch, 1, size // stride, size // stride, device=device) for stride in STRIDES)
    anchors = sum(x.shape[-2] * x.shape[-1] for x in maps)
    logits = torch.randn(batch, anchors, classes, device=device) - 4.6
    distances = 8 * torch.rand(batch, anchors, 4 * (reg_max + 1), device=device)
    return DetectorOutput(maps, logits.requires_grad_(), distances.requires_grad_())


def peak_resident_bytes() -> int:
    """The process's high-water mark."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """What the process holds now; where the system does not say, its high-water mark."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_resident_bytes()
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
