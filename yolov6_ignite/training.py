"""A training run put together from a configuration, and its whole state as a checkpoint."""

from __future__ import annotations

import functools
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from yolov6_ignite.batch_size import with_batch_size
from yolov6_ignite.checkpoint import write_atomically, write_checkpoint, write_text, write_weights
from yolov6_ignite.compose import (
    Parts,
    configured_trackers,
    default_handlers,
    first_epoch_without_strong_augmentation,
)
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import dump_config
from yolov6_ignite.configured_handlers import add_configured_handlers, build_configured_handlers
from yolov6_ignite.distillation import build_teacher
from yolov6_ignite.distributed import (
    autocast_dtype,
    from_rank_zero,
    memory_format,
    require_ranks,
    resolve_device,
    resolve_precision,
    same_on_all_ranks,
    wrap_for_ranks,
)
from yolov6_ignite.engine import create_trainer, no_teacher
from yolov6_ignite.errors import ConfigError, NonFiniteError, StoppedError, UserError
from yolov6_ignite.evaluation import CocoEvaluation
from yolov6_ignite.handlers import (
    HandlerSet,
    LearningRateCurve,
    StopRequest,
    TrackerError,
    is_complete,
    train_state,
)
from yolov6_ignite.learning_rate_search import search_learning_rate
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import Detector
from yolov6_ignite.optim import build_optimizer, build_schedule, freeze
from yolov6_ignite.own_parts import OwnParts
from yolov6_ignite.plots import draw_batch, save_image, training_curves
from yolov6_ignite.random_state import random_state, seed_everything, set_random_state
from yolov6_ignite.run_directory import RunDirectory, choose_run_directory, refuse_other_run
from yolov6_ignite.run_files import LazyWriter, RunLog, write_stop_reason
from yolov6_ignite.starting_model import build_starting_model, find_all_weights
from yolov6_ignite.training_data import TrainingData, require_dataset
from yolov6_ignite.training_result import TrainingResult

__all__ = ["Training", "build_training"]

logger = logging.getLogger(__name__)


class Training:
    """A run that is ready to start; nothing has run yet.

    Attributes:
        engine: the Ignite engine of the step.
        evaluator: the Ignite engine of evaluation; its ``state.metrics`` and ``state.coco`` are of the last one.
        model: the model in training, not wrapped.
        loss: the objective.
        optimizer: its parameter groups are (batch norm weights, other weights, biases).
        names: class names.
        writer: TensorBoard's ``SummaryWriter`` of the run, also ``engine.state.writer``; None on ranks other than 0.
        handlers: by name, in the order in which they act.
        config: the resolved configuration.
        run_dir: the run's folder.
    """

    def __init__(self, config: Config, directory: RunDirectory, device: torch.device, own: OwnParts) -> None:
        self.config = config
        self.device = device
        self.run_dir = directory.path
        self._was_finished = directory.finished
        self._started = False
        seed_everything(config.train.seed, deterministic=config.train.deterministic)
        own_handlers = build_configured_handlers(config)
        trackers = configured_trackers(config, directory.path.name)
        self._data = TrainingData(
            config,
            pin_memory=device.type == "cuda",
            own_loader=own.train_loader,
            own_val=own.val_loader is not None,
        )
        self.names = self._data.names

        self.model: nn.Module
        if own.model is None:
            self.model, scales, spec = build_starting_model(config, self.names, resumed=directory.resumed_from)
        else:
            self.model, scales, spec = own.model, None, None
            freeze(self.model, config.train.freeze)
        self._quantization = None if spec is None else spec.to_dict()
        self.model.to(device).train()
        self.model.to(memory_format=memory_format(device))  # type: ignore[call-overload]
        self.optimizer = build_optimizer(config, self.model, scales)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")

        resumed = directory.resumed_from or {}
        done = int(resumed["engine"]["iteration"]) if resumed else 0
        epoch_length = len(self.train_loader)
        cutoff = None if own.train_loader is not None else first_epoch_without_strong_augmentation(config)
        if cutoff is not None and done // epoch_length + 1 >= cutoff:
            self._data.cut_off_augmentation()
        self.loss = own.loss or build_loss(config, len(self.names), class_weights=self._data.class_weights)
        if isinstance(self.loss, nn.Module):
            self.loss.to(device)
        teacher = None if own.model is not None else build_teacher(config, cast(Detector, self.model), device)
        self._teacher_fingerprint = None if teacher is None else teacher.fingerprint
        self._make_engine = functools.partial(
            create_trainer,
            wrap_for_ranks(self.model, device, sync_bn=config.train.sync_bn),
            self.loss,
            self.scaler,
            device=device,
            autocast_dtype=autocast_dtype(config.train.precision),
            teacher=teacher or no_teacher,
        )
        self.engine = self._make_engine()
        self._evaluation = CocoEvaluation(
            self._data.val_index, self._data.dataset, config, device=device, loader=own.val_loader
        )
        if resumed:
            refuse_other_run(
                resumed,
                self.config,
                self.run_dir,
                names=self.names,
                data=self._data.fingerprints,
                teacher=self._teacher_fingerprint,
                epoch_length=epoch_length,
            )
        from_rank_zero(directory.make)  # only now: a refused run leaves nothing behind
        writer = LazyWriter(self.run_dir, first_step=done // epoch_length + 1)
        self.writer: SummaryWriter | None = writer if idist.get_rank() == 0 else None
        train_state(self.engine).writer = self.writer
        self.handlers: HandlerSet = default_handlers(
            self.engine,
            config,
            Parts(
                device=device,
                model=self.model,
                optimizer=self.optimizer,
                scaler=self.scaler,
                schedule=build_schedule(config, epoch_length),
                make_loader_after_cutoff=None if own.train_loader is not None else self._data.cut_off_augmentation,
                evaluate=self._evaluate,
                evaluate_teacher=None if teacher is None else lambda: self._evaluate(teacher.model),
                draw_batch=lambda batch: draw_batch(batch.images, batch.targets, batch.paths, self.names),
                draw_predictions=self._evaluation.prediction_images,
                draw_plots=self._draw_plots,
                save=self._save,
                write_final=self._write_final,
                keep_batch=self._keep_batch,
                run_dir=self.run_dir,
                writer=writer,
                trackers=trackers,
            ),
        )
        add_configured_handlers(self.handlers, own_handlers)
        self._resumed_average = resumed.get("ema")
        if resumed:
            self._load(resumed)

    @property
    def train_loader(self) -> Any:
        """What the run reads now; another after the cutoff."""
        return self._data.loader

    @property
    def evaluator(self) -> Engine:
        return self._evaluation.engine

    @property
    def ema_model(self) -> nn.Module:
        """The averaged model."""
        return train_state(self.engine).ema_model or self.model

    @property
    def finished_epochs(self) -> int:
        return int(train_state(self.engine).iteration) // len(self.train_loader)

    def run(self) -> TrainingResult:
        """Trains to the end, or until a stop is requested.

        Returns:
            The best and the last numbers, and where the files are.

        Raises:
            UserError: the run stopped before its end; ``exit_code`` and message say why. ``stopped.json`` in the
                run's folder has both.
        """
        if self._started:
            raise RuntimeError("this run has been started before; build it again, with train.resume=auto to go on")
        self._started = True
        first_rank = idist.get_rank() == 0
        if first_rank:
            (self.run_dir / "stopped.json").unlink(missing_ok=True)
            if self.engine.state.iteration == 0:
                (self.run_dir / "timing.csv").unlink(missing_ok=True)  # of an attempt without a checkpoint
            write_text(self.run_dir / "config.yaml", dump_config(self.config))
        state = train_state(self.engine)
        early = state.early_stop_reason
        if early is not None or self.finished_epochs >= self.config.train.epochs:
            if first_rank and not self._was_finished:
                state.finish()
            logger.info(
                "%s is finished (%d epochs%s): nothing to resume; raise %s to go on",
                self.run_dir,
                self.finished_epochs,
                "" if early is None else f", {early}",
                "train.epochs" if early is None else "train.patience",
            )
            return TrainingResult.of(state.history, self.run_dir)
        if self._resumed_average is not None and self.ema_model is not self.model:
            self.ema_model.load_state_dict(self._resumed_average)  # once more: its handler may have been replaced
        self._resumed_average = None
        with ExitStack() as stack:
            if first_rank:
                (self.run_dir / "weights" / "final.pt").unlink(missing_ok=True)  # it says that a run is finished
            if self.writer is not None:
                stack.callback(self.writer.close)
            stack.callback(self._evaluation.close)
            stack.callback(self._data.close)
            stack.enter_context(state.exit_stack)
            try:
                self.engine.run(
                    self.train_loader, max_epochs=self.config.train.epochs, epoch_length=len(self.train_loader)
                )
            except (TrackerError, UserError) as raised:
                tracker = isinstance(raised, TrackerError)
                error = ConfigError(f"logging.trackers: {raised}") if tracker else cast(UserError, raised)
                if first_rank:
                    write_stop_reason(self.run_dir, error.exit_code, str(error))
                raise error from raised
        request = state.stop_request if self.engine.should_terminate else None  # a late one found nothing left to stop
        if request is None and self.engine.should_terminate and not is_complete(state):
            # without a handler for stops
            request = StopRequest(
                StoppedError.exit_code, "engine.terminate() was called; resume with train.resume=auto"
            )
        if request is not None and first_rank:
            write_stop_reason(self.run_dir, request.exit_code, request.reason)
        idist.barrier()  # rank 0 is done with its files: a launcher ends all ranks when one has ended
        if request is not None:
            kinds = {kind.exit_code: kind for kind in (NonFiniteError, StoppedError)}
            stopped = kinds.get(request.exit_code, UserError)(
                f"stopped in epoch {self.engine.state.epoch}: {request.reason}"
            )
            stopped.exit_code, stopped.on_all_ranks = request.exit_code, True
            raise stopped
        return TrainingResult.of(state.history, self.run_dir)

    def find_learning_rate(self) -> LearningRateCurve:
        """See :func:`yolov6_ignite.learning_rate_search.search_learning_rate`."""
        try:
            return search_learning_rate(
                self._make_engine(),
                self.train_loader,
                self.model,
                self.optimizer,
                self.scaler,
                self.config,
                self.run_dir / "learning_rate.csv",
            )
        finally:
            self._data.close()

    def state(self) -> dict[str, Any]:
        """The run's whole state as tensors and plain values, as a checkpoint holds it."""
        state = train_state(self.engine)
        return {
            "kind": "training",
            "config": self.config.model_dump(mode="json"),
            "names": list(self.names),
            "metrics": self._metrics(),
            "epoch": state.iteration // state.epoch_length,
            "model": self.model.state_dict(),
            "ema": self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "engine": dict(self.engine.state_dict()),
            "handlers": self.handlers.state_dict(),
            "random": random_state(),
            "world_size": idist.get_world_size(),
            "data": self._data.fingerprints,
            "teacher": self._teacher_fingerprint,
            "quantization": self._quantization,
        }

    def _load(self, content: dict[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.ema_model.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        self.engine.load_state_dict({**content["engine"], "max_epochs": self.config.train.epochs})
        self.handlers.load_state_dict(content["handlers"])
        set_random_state(content["random"])
        logger.info("resuming %s after iteration %d", self.run_dir, train_state(self.engine).iteration)

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        self._evaluation(model)
        return self._evaluation.scalars()

    def _draw_plots(self, folder: Path) -> None:
        self._evaluation.draw_plots(folder)
        save_image(folder / "training.png", training_curves(train_state(self.engine).history))

    def _save(self, path: Path) -> None:
        state = self.state()  # on every rank: some of it is gathered
        if idist.get_rank() == 0:
            write_checkpoint(path, state, keep_previous=path.name == "last_ckpt.pt")

    def _metrics(self) -> dict[str, float]:
        return {name: value for name, value in train_state(self.engine).validation.items() if name != "epoch"}

    def _write_final(self, path: Path) -> None:
        write_weights(
            path,
            state=self.ema_model.state_dict(),
            config=self.config.model_dump(mode="json"),
            names=self.names,
            metrics=self._metrics(),
            epoch=self.finished_epochs,
            quantization=self._quantization,
        )

    def _keep_batch(self, batch: Any) -> str:
        path = self.run_dir / f"bad_batch_rank{idist.get_rank()}.pt"
        content = {"images": batch.images, "targets": batch.targets, "paths": list(batch.paths)}
        write_atomically(path, lambda file: torch.save(content, file))
        return str(path)


def build_training(
    config: Config,
    *,
    model: nn.Module | None = None,
    loss: Any = None,
    train_loader: Any = None,
    val_loader: Any = None,
) -> Training:
    """Puts a run together: data, model, loss, optimizer, engines and handlers.

    On several ranks every rank calls it, inside an initialised process group. Parts that are given take the place of
    the configured ones (:class:`~yolov6_ignite.own_parts.OwnParts` says what a run needs of them); ``data.dataset``
    still names the classes. What they change of the guarantees is the user's: another model's checkpoints resume, but
    ``load_model`` does not know its network; a loss decides by itself how it is normalised over devices; a loader
    decides what an epoch shows, and a resume inside one starts it anew unless its ``batch_sampler`` has
    ``set_epoch(epoch, start_step=...)``.

    Args:
        config: from :func:`yolov6_ignite.load_config`.
        model: the network to train.
        loss: the objective.
        train_loader: training batches.
        val_loader: validation batches, which are also the ground truth.

    Raises:
        ConfigError: the configuration does not fit this machine, the run's folder, its checkpoint or the given parts.
        DatasetError: the data set cannot be used.
        TypeError: a given part lacks what a run needs of it.
    """
    own = OwnParts(model, loss, train_loader, val_loader)
    if config.quant.mode == "ptq":
        raise ConfigError("quant.mode: ptq: nothing is trained; use build_calibration_run")
    own.check(config)
    require_dataset(config)
    require_ranks(config)
    device = resolve_device(config.train.device)
    directory = from_rank_zero(lambda: choose_run_directory(config))
    chosen = resolve_precision(config, device)
    if directory.resumed_from is not None and config.train.precision == "auto":
        chosen = directory.resumed_from["config"]["train"]["precision"]
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": chosen})})
    with RunLog() as log:
        if directory.resumed_from is None:
            find_all_weights(config)
        if config.data.batch_size == "auto":
            config = with_batch_size(config, directory.resumed_from, device)
        with same_on_all_ranks():
            training = Training(config, directory, device, own)
        if idist.get_rank() == 0:
            log.write_to(directory.path / "train.log")
    return training
