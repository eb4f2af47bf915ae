"""``python -m yolov6_ignite.convert OFFICIAL.pt OUT.pt``"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from yolov6_ignite.command import log_to_console, run_command
from yolov6_ignite.errors import ConfigError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes weights in this project's format; returns the exit code (0 done, 2 usage or weights)."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m yolov6_ignite.convert",
        description="Write an official YOLOv6 weight file, or a training checkpoint, as a checkpoint of this project: "
        "averaged weights in half precision (fp32 if quantised) with their recipe and class names, and nothing that "
        "could run.",
    )
    parser.add_argument("weights", help="an official .pt (0.2, 0.3, 0.4; downloaded when missing), or one of ours")
    parser.add_argument("output", type=Path, help="the file to write; it must not exist")
    parser.add_argument("--recipe", help="the recipe of an official file; default: inferred from its weights")
    options = parser.parse_args(arguments)
    return run_command(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    from yolov6_ignite.checkpoint import write_weights
    from yolov6_ignite.models import count_parameters
    from yolov6_ignite.weights import read_weights

    log_to_console(logging.INFO)
    output: Path = options.output
    if output.exists():
        raise ConfigError(f"{output}: is there already; choose another name or remove it")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: there is no folder {output.parent}; make it first")
    read = read_weights(options.weights, recipe=options.recipe)
    parameters = count_parameters(read.build())  # also shows that weights and recipe fit each other
    write_weights(
        output,
        state=read.state,
        config=read.config.model_dump(mode="json"),
        names=read.names,
        metrics=read.metrics,
        epoch=read.epoch,
        quantization=None if read.quantization is None else read.quantization.to_dict(),
    )
    print(f"{output}: {read.config.model.type}, {parameters:,} parameters, {len(read.names)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
