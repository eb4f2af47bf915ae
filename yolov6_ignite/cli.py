"""``yolov6-ignite COMMAND``: the commands of ``python -m yolov6_ignite.COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {"train": "train a detector", "evaluate": "COCO average precision of a checkpoint"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="yolov6-ignite",
        epilog="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="what to do; COMMAND --help tells more")
    command = parser.parse_args(arguments[:1]).command
    return int(importlib.import_module(f"yolov6_ignite.{command}").main(arguments[1:]))
