"""``python -m yolov6_ignite.train CONFIG.yaml [section.key=value ...] [--explain]``"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

from yolov6_ignite.command import log_to_console, run_command
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config_with_origins
from yolov6_ignite.errors import ConfigError

__all__ = ["main"]

logger = logging.getLogger("yolov6_ignite.train")  # __name__ is __main__ under python -m

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the first pass over a large data set happens on one rank


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code (0 done, 2 configuration, 3 data set, 4 non-finite, 5 memory, 75 stopped)."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m yolov6_ignite.train",
        description="Train a detector from a YAML configuration or recipe.",
    )
    parser.add_argument("config", help="a YAML file, or the name of a recipe: yolov6n, custom, quickstart, ...")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for example train.epochs=50")
    parser.add_argument("--explain", action="store_true", help="print every value with its origin, and the plan; exit")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _train(options))


def _train(options: argparse.Namespace) -> int:
    config, origins = load_config_with_origins(options.config, options.overrides)
    if options.explain:
        from yolov6_ignite.explain import explain

        print(explain(config, origins))
        return 0
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:  # torchrun
        return _on_launched_rank(config)
    if config.train.devices > 1:
        return _spawn(config)
    return _on_this_rank(config)


def _on_this_rank(config: Config) -> int:
    import ignite.distributed as idist

    from yolov6_ignite.training import build_training

    log_to_console(logging.INFO if idist.get_rank() == 0 else logging.ERROR)
    if config.quant.mode == "ptq":
        from yolov6_ignite.calibration_run import build_calibration_run

        build_calibration_run(config).run()
        return 0
    training = build_training(config)
    if config.train.find_lr:
        training.find_learning_rate()
        return 0
    training.run()
    if idist.get_rank() == 0:
        _say_what_next(training.run_dir)
    return 0


def _on_launched_rank(config: Config) -> int:
    import ignite.distributed as idist

    idist.initialize(_backend(config), timeout=COLLECTIVE_TIMEOUT)
    try:
        return _as_one_of_several(config)
    finally:
        idist.finalize()


def _as_one_of_several(config: Config) -> int:
    """Runs one rank, and frees the wrapped model: its threads must end before the process group does."""
    code = run_command(lambda: _on_this_rank(config))
    gc.collect()
    return code


def _spawn(config: Config) -> int:
    import torch
    from ignite.distributed.launcher import Parallel
    from torch.multiprocessing.spawn import ProcessExitedException

    from yolov6_ignite.data import load_dataset_file

    if config.data.dataset is not None:
        load_dataset_file(config.data.dataset)  # a wrong path is told once, and at once
    backend = _backend(config)
    if backend == "nccl" and config.train.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices: {config.train.devices}, but there are {torch.cuda.device_count()} CUDA devices"
        )
    port = int(os.environ.get("MASTER_PORT") or _free_port())
    try:
        with (
            _signals_passed_on(),
            Parallel(
                backend,
                nproc_per_node=config.train.devices,
                master_addr="127.0.0.1",
                master_port=port,
                timeout=COLLECTIVE_TIMEOUT,
            ) as parallel,
        ):
            parallel.run(_spawned_rank, config)
    except ProcessExitedException as error:
        if error.exit_code > 0:
            return error.exit_code
        raise
    return 0


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """SIGTERM goes on to the ranks, which save and end; a terminal's Ctrl-C has reached them already."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for rank in multiprocessing.active_children():
            rank.terminate()

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _spawned_rank(local_rank: int, config: Config) -> None:
    import ignite.distributed as idist

    code = _as_one_of_several(config)
    if code:
        idist.finalize()  # a rank that leaves a group open can abort the others before they have their own code
        sys.exit(code)


def _backend(config: Config) -> str:
    import torch

    on_cuda = config.train.device.startswith("cuda") or (config.train.device == "auto" and torch.cuda.is_available())
    return "nccl" if on_cuda else "gloo"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say_what_next(run_dir: Path) -> None:
    best = run_dir / "weights" / "best_ckpt.pt"
    logger.info("weights:     %s", best)
    logger.info("plots:       %s", run_dir / "plots")
    logger.info("TensorBoard: tensorboard --logdir %s", run_dir)
    logger.info("next:        %s -m yolov6_ignite.evaluate %s", sys.executable, best)
    logger.info("or:          %s -m yolov6_ignite.export %s", sys.executable, best)


if __name__ == "__main__":
    sys.exit(main())
