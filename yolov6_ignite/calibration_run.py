"""Post-training quantisation as a run of its own (``quant.mode: ptq``): a calibrated file from a trained one."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from yolov6_ignite.checkpoint import write_text, write_weights
from yolov6_ignite.config import Config, TrainConfig
from yolov6_ignite.config_file import dump_config
from yolov6_ignite.data import (
    Batch,
    BatchLoader,
    DatasetFile,
    DatasetIndex,
    build_eval_loader,
    index_split,
    load_dataset_file,
)
from yolov6_ignite.distributed import from_rank_zero, memory_format, require_ranks, resolve_device, same_on_all_ranks
from yolov6_ignite.engine import to_model_input
from yolov6_ignite.errors import ConfigError, StoppedError, UserError
from yolov6_ignite.evaluation import CocoEvaluation
from yolov6_ignite.handlers import HandlerSet, PTQCalibration
from yolov6_ignite.models import Detector
from yolov6_ignite.models.repvgg import MultiBranchBlock
from yolov6_ignite.quantization import (
    Accuracy,
    Calibrator,
    QuantizationSpec,
    measure_sensitivity,
    quantized_layers,
    quantized_model,
    skip_patterns,
)
from yolov6_ignite.random_state import seed_everything
from yolov6_ignite.run_directory import RunDirectory, choose_run_directory
from yolov6_ignite.run_files import RunLog, write_stop_reason
from yolov6_ignite.starting_model import FINE_LR0, build_calibration_model
from yolov6_ignite.training_data import require_dataset

__all__ = ["CalibrationRun", "build_calibration_run", "create_calibration_engine"]

logger = logging.getLogger(__name__)

INTEGER_BITS = 8  # what runtimes compute with


class CalibrationRun:
    """A calibration that is ready to start; nothing has run yet.

    Attributes:
        engine: the Ignite engine that shows training images to the model.
        evaluator: the Ignite engine of evaluation.
        model: the quantised model, whose quantisers are off until it is calibrated.
        spec: what is quantised of it, and how.
        loader: what is shown: training images as the validation sees them.
        handlers: by name, in the order in which they act.
        config: the configuration.
        run_dir: the run's folder.
    """

    def __init__(self, config: Config, directory: RunDirectory, device: torch.device) -> None:
        self.config = config
        self.run_dir = directory.path
        self._started = False
        seed_everything(config.train.seed, deterministic=config.train.deterministic)
        dataset: DatasetFile = from_rank_zero(lambda: load_dataset_file(str(config.data.dataset)))
        self._names = dataset.names
        float_model = build_calibration_model(config, dataset.names)
        self.spec = _spec(config, float_model)
        self.model = _quantized(config, float_model, self.spec)
        for model in (float_model, self.model):
            model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self._float_model = float_model

        train_index, val_index = from_rank_zero(
            lambda: tuple(index_split(split, dataset.names, config.data) for split in (dataset.train, dataset.val))
        )
        self._evaluation = CocoEvaluation(val_index, dataset, config, device=device)
        self.loader = _calibration_loader(config, train_index, pin_memory=device.type == "cuda")
        logger.info("%s: %s", config.train.weights, self.spec.summary(quantized_layers(self.model)))
        if self.spec.bits != INTEGER_BITS:
            logger.warning("quant.bits: %d is for experiments: no runtime computes with it", self.spec.bits)
        self.engine = create_calibration_engine(self.model, device)
        self._calibrator = Calibrator(self.model, self.spec)
        self.handlers = HandlerSet(self.engine)
        self.handlers.add("calibration", PTQCalibration(self._calibrator))
        _warn_of_ignored_keys(config)
        from_rank_zero(directory.make)  # only now: a refused run leaves nothing behind

    @property
    def evaluator(self) -> Engine:
        return self._evaluation.engine

    @property
    def path(self) -> Path:
        """Where the calibrated model is written."""
        partial = "_partial" if self.spec.skip else ""
        name = f"{Path(str(self.config.train.weights)).stem}_calib_{self.spec.method}{partial}.pt"
        return self.run_dir / "weights" / name

    def run(self) -> None:
        """Calibrates, evaluates before and after, and writes the calibrated file; then measures sensitivities.

        Raises:
            UserError: the data or the ranges cannot be used, or a file not be written. ``stopped.json`` in the run's
                folder has exit code and message.
        """
        if self._started:
            raise RuntimeError("this calibration has been started before; build it again")
        self._started = True
        with ExitStack() as stack:
            stack.callback(self._evaluation.close)
            stack.callback(self.loader.close)
            stack.callback(self._calibrator.abort)
            try:
                with _ended_by_signals(self.path):
                    from_rank_zero(lambda: write_text(self.run_dir / "config.yaml", dump_config(self.config)))
                    self._calibrate()
                    if self.config.quant.sensitivity:
                        self._measure_sensitivity()
            except UserError as error:
                if idist.get_rank() == 0:
                    write_stop_reason(self.run_dir, error.exit_code, str(error))
                raise
        idist.barrier()  # rank 0 is done with its files: a launcher ends all ranks when one has ended

    def _calibrate(self) -> None:
        before = Accuracy.of(self._evaluate(self._float_model))
        self.engine.run(self.loader, max_epochs=1)
        metrics = self._evaluate(self.model)
        after = Accuracy.of(metrics)
        logger.info(
            "mAP@0.5 %.4f in fp32, %.4f quantised (%+.4f) | mAP@0.50:0.95 %.4f in fp32, %.4f quantised (%+.4f)",
            *(before.map50, after.map50, after.map50 - before.map50),
            *(before.map50_95, after.map50_95, after.map50_95 - before.map50_95),
        )
        from_rank_zero(
            lambda: write_weights(
                self.path,
                state=self.model.state_dict(),
                config=self.config.model_dump(mode="json"),
                names=self._names,
                metrics=metrics,
                epoch=0,
                quantization=self.spec.to_dict(),
            )
        )
        self._say_what_next()

    def _say_what_next(self) -> None:
        lr0 = self.config.solver.lr0
        logger.info("weights: %s", self.path)
        if self.spec.bits == INTEGER_BITS:
            logger.info("next:    %s -m yolov6_ignite.export %s", sys.executable, self.path)
        logger.info(
            "or:      the recipe that it was trained with, quant.mode=qat quant.calibrated=%s train.epochs=10 "
            "solver.lr0=%g augment.stop_last_n_epochs=3 eval.interval=1",
            *(self.path, lr0 / 16 if lr0 >= FINE_LR0 else lr0),
        )

    def _measure_sensitivity(self) -> None:
        self._evaluation.verbose = False  # a table by class for every layer
        sensitivity = measure_sensitivity(self.model, self._evaluate)
        logger.info("AP with one layer quantised at a time:\n%s", sensitivity.table())
        path = self.run_dir / "sensitivity.csv"
        from_rank_zero(lambda: write_text(path, sensitivity.csv()))
        logger.info("without the 10 most sensitive layers: quant.skip=%s quant.most_sensitive=10", path)

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        self._evaluation(model)
        return self._evaluation.scalars()


def build_calibration_run(config: Config) -> CalibrationRun:
    """Puts a calibration together: data, model, engines and handlers.

    On several ranks every rank calls it, inside an initialised process group.

    Raises:
        ConfigError: the configuration does not fit this machine, the weights or the run's folder.
        DatasetError: the data set cannot be used.
    """
    if config.quant.mode != "ptq":
        raise ConfigError(f"quant.mode: {config.quant.mode}; a calibration needs ptq")
    require_dataset(config)
    require_ranks(config)
    device = resolve_device(config.train.device)
    with RunLog() as log:
        with same_on_all_ranks():
            directory = from_rank_zero(lambda: choose_run_directory(config))
            run = CalibrationRun(config, directory, device)
        if idist.get_rank() == 0:
            log.write_to(directory.path / "train.log")
    return run


@contextmanager
def _ended_by_signals(result: Path) -> Iterator[None]:
    """SIGTERM and Ctrl-C end a calibration at once; there is nothing to resume.

    Args:
        result: where the calibrated model is written.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # only the main thread can
        previous = {}
    try:
        yield
    except KeyboardInterrupt as error:
        done = f"the sensitivity analysis was interrupted; {result} is complete"
        stopped = StoppedError(done if result.exists() else "the calibration was interrupted; start it again")
        stopped.on_all_ranks = True
        raise stopped from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _warn_of_ignored_keys(config: Config) -> None:
    """Settings of training that a recipe does not have by itself."""
    default = TrainConfig()
    train = ("time_limit", "patience", "profile", "freeze", "fuse_ab")
    ignored = [f"train.{key}" for key in train if getattr(config.train, key) != getattr(default, key)]
    ignored += ["logging.trackers"] if config.logging.trackers else []
    ignored += ["handlers"] if config.handlers else []
    if ignored:
        logger.warning("%s: of training, and without effect on a calibration", ", ".join(ignored))


def create_calibration_engine(model: nn.Module, device: torch.device) -> Engine:
    """An engine over :class:`yolov6_ignite.data.Batch` whose step is a forward pass; its output is the batch's size."""

    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> int:
        model(to_model_input(batch.images, device))
        return len(batch.images)

    return Engine(step)


def _spec(config: Config, model: Detector) -> QuantizationSpec:
    quant = config.quant
    # Branches can be quantised only as the one convolution that they are merged into.
    merges = any(isinstance(module, MultiBranchBlock) and module.rbr_reparam is None for module in model.modules())
    return QuantizationSpec(
        bits=quant.bits,
        method=quant.method,
        percentile=quant.percentile,
        skip=from_rank_zero(lambda: skip_patterns(quant)),
        target=quant.target,
        keep_batch_norm=not merges,
    )


def _quantized(config: Config, model: Detector, spec: QuantizationSpec) -> Detector:
    try:
        return quantized_model(model, spec)
    except ConfigError as error:
        if not isinstance(config.quant.skip, str):
            raise
        hint = "" if config.quant.most_sensitive else "; quant.most_sensitive=N takes only its first N names"
        raise ConfigError(f"quant.skip: {config.quant.skip}: {error}{hint}") from error


def _calibration_loader(config: Config, index: DatasetIndex, *, pin_memory: bool) -> BatchLoader:
    """Training images chosen by the seed, as the validation sees them, in batches of one size."""
    wanted, ranks = config.quant.batches * config.eval.batch_size, idist.get_world_size()
    if len(index) < wanted:
        logger.info(
            "quant.batches: %d batches of %d images are wanted; all %d training images are used",
            *(config.quant.batches, config.eval.batch_size, len(index)),
        )
    chosen = np.random.default_rng(config.train.seed).permutation(len(index))[:wanted]
    logger.info("calibrating on %d training images", len(chosen))
    return build_eval_loader(
        index.subset(chosen),
        image_size=config.eval.image_size or config.data.image_size,
        batch_size=max(1, min(config.eval.batch_size, len(chosen) // ranks)),  # every rank has images of its own
        stride=max(config.model.head.strides),
        rect=False,
        pad=0.0,
        shrink_px=config.eval.shrink_px,
        on_bad_image=config.data.on_bad_image,
        workers=config.data.workers,
        rank=idist.get_rank(),
        world_size=ranks,
        pin_memory=pin_memory,
    )
