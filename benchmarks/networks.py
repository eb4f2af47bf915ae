"""What the networks cost: training steps and detection, in the training form and deployed.

    python benchmarks/networks.py [--device cuda] [--precision bf16] [--recipes yolov6n yolov6s ...]

Forward, loss and backward of a training step; forward in eval mode of the training form and of the deployed one, all
in turns and in channels-last memory. Images a second, and the median of the ratios deployed / training form.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from timing import seconds

from yolov6_ignite.config_file import load_config
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import build_model

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CLASSES = 80
BOXES = 8  # objects an image, about as many as in COCO


def main() -> None:
    """Measures and prints one line a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["yolov6n", "yolov6s", "yolov6m", "yolov6l"])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=640, help="pixels")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"batch {args.batch}, {args.size} px, {args.precision}, {args.device}; images a second")
    for recipe in args.recipes:
        print(measure(recipe, args), flush=True)


def measure(recipe: str, args: argparse.Namespace) -> str:
    """The three kinds of work in turns."""
    torch.manual_seed(0)
    device, config, dtype = torch.device(args.device), load_config(recipe), PRECISIONS[args.precision]
    network = build_model(config.model, CLASSES).to(device, memory_format=torch.channels_last)
    evaluated = build_model(config.model, CLASSES).to(device, memory_format=torch.channels_last).eval()
    deployed = evaluated.deploy()
    loss = build_loss(config, CLASSES)
    images = torch.rand(args.batch, 3, args.size, args.size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    image = torch.arange(args.batch).repeat_interleave(BOXES)
    labels = torch.randint(CLASSES, (len(image),))
    targets = torch.cat((torch.stack((image, labels), 1), 0.3 + 0.4 * torch.rand(len(image), 4)), dim=1)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    def step() -> None:
        network.zero_grad()
        with autocast():
            output = network(images)
        loss(output, targets, epoch=5, max_epochs=300, image_size=(args.size, args.size))[0].backward()

    def detect(model: torch.nn.Module) -> Callable[[], None]:
        @torch.inference_mode()
        def forward() -> None:
            with autocast():
                model(images)

        return forward

    calls = (step, detect(evaluated), detect(deployed))
    rows = [[seconds(call, device) for call in calls] for _ in range(args.repeats + 3)][3:]
    train, training_form, deployed_form = (args.batch / statistics.median(times) for times in zip(*rows, strict=True))
    ratio = statistics.median(row[1] / row[2] for row in rows)
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return (
        f"{recipe:26} train {train:7.1f}, detect {training_form:7.1f}, deployed {deployed_form:7.1f} "
        f"({ratio:.2f} times the training form){memory}"
    )


if __name__ == "__main__":
    main()
