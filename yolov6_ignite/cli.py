"""``yolov6-ignite COMMAND``: every command is the ``main`` of a module."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {  # name: module, what it does
    "train": ("yolov6_ignite.train", "train a detector"),
    "evaluate": ("yolov6_ignite.evaluate", "COCO average precision of a checkpoint"),
    "convert": ("yolov6_ignite.convert", "official weights as a checkpoint of this project"),
    "export": ("yolov6_ignite.export", "ONNX, TorchScript and OpenVINO files, checked against the model"),
    "models": ("yolov6_ignite.family", "the models: size, cost and published accuracy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="yolov6-ignite",
        epilog="\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="what to do; COMMAND --help tells more")
    command = parser.parse_args(arguments[:1]).command
    return int(importlib.import_module(COMMANDS[command][0]).main(arguments[1:]))
