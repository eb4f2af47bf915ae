"""A training run put together from a configuration, and its whole state as a checkpoint."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import nn

from yolov6_ignite.checkpoint import write_atomically, write_checkpoint, write_text
from yolov6_ignite.compose import (
    Parts,
    configured_handlers,
    default_handlers,
    first_epoch_without_strong_augmentation,
)
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import dump_config
from yolov6_ignite.data import (
    BatchLoader,
    DatasetFile,
    DatasetIndex,
    RamCache,
    build_index,
    build_train_loader,
    load_dataset_file,
)
from yolov6_ignite.distributed import (
    autocast_dtype,
    from_rank_zero,
    memory_format,
    resolve_device,
    resolve_precision,
    wrap_for_ranks,
)
from yolov6_ignite.engine import create_trainer
from yolov6_ignite.errors import ConfigError, NonFiniteError, StoppedError, UserError
from yolov6_ignite.evaluation import CocoEvaluation
from yolov6_ignite.handlers import HandlerSet, train_state
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import build_model
from yolov6_ignite.optim import build_optimizer, build_schedule
from yolov6_ignite.plots import draw_batch, save_image, training_curves
from yolov6_ignite.random_state import random_state, seed_everything, set_random_state
from yolov6_ignite.run_directory import RunDirectory, choose_run_directory, config_differences
from yolov6_ignite.run_files import LazyWriter, RunLog
from yolov6_ignite.weights import find_weights, load_matching_weights

__all__ = ["Training", "build_training"]

logger = logging.getLogger(__name__)


class Training:
    """A run that is ready to start; nothing has run yet.

    Attributes:
        engine: the Ignite engine of the step.
        evaluator: the Ignite engine of evaluation.
        model: the model in training, not wrapped.
        optimizer: its parameter groups are (batch norm weights, other weights, biases).
        train_loader: what the run reads now; another after the cutoff.
        handlers: by name, in the order in which they act.
        config: the resolved configuration.
        run_dir: the run's folder.
    """

    def __init__(self, config: Config, directory: RunDirectory, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.run_dir = directory.path
        self._was_finished = directory.finished
        self._started = False
        seed_everything(config.train.seed, deterministic=config.train.deterministic)
        dataset, train_index, val_index = _load_data(config)
        self.names = dataset.names
        self._fingerprints = {"train": train_index.fingerprint, "val": val_index.fingerprint}
        self._train_index = train_index
        keep_images = config.data.cache == "ram"
        copies = idist.get_nproc_per_node()
        self._cache = RamCache(train_index, config.data.height_width, copies=copies) if keep_images else None

        self.model = build_model(config.model, len(self.names))
        self.model.names = list(self.names)
        if config.train.weights is not None and directory.resumed_from is None:
            load_matching_weights(self.model, from_rank_zero(lambda: find_weights(str(config.train.weights))))
        self.model.to(device).train()
        self.model.to(memory_format=memory_format(device))  # type: ignore[call-overload]
        self.optimizer = build_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")

        resumed = directory.resumed_from or {}
        done = int(resumed["engine"]["iteration"]) if resumed else 0
        self.train_loader = self._make_loader(strong=True)
        epoch_length = len(self.train_loader)
        cutoff = first_epoch_without_strong_augmentation(config)
        if cutoff is not None and done // epoch_length + 1 >= cutoff:
            self.train_loader = self._make_loader(strong=False)
        self.engine = create_trainer(
            wrap_for_ranks(self.model, device, sync_bn=config.train.sync_bn),
            build_loss(config, len(self.names)),
            self.scaler,
            device=device,
            autocast_dtype=autocast_dtype(config.train.precision),
        )
        self._evaluation = CocoEvaluation(val_index, dataset, config, device=device)
        own_handlers = configured_handlers(config)
        if resumed:
            self._refuse_other_run(resumed)
        from_rank_zero(directory.make)  # only now: a refused run leaves nothing behind
        self._writer = LazyWriter(self.run_dir, first_step=done // epoch_length + 1)
        self.handlers: HandlerSet = default_handlers(
            self.engine,
            config,
            Parts(
                model=self.model,
                optimizer=self.optimizer,
                scaler=self.scaler,
                schedule=build_schedule(config, epoch_length),
                make_loader_after_cutoff=self._swap_loader,
                evaluate=self._evaluate,
                draw_batch=lambda batch: draw_batch(batch.images, batch.targets, batch.paths, self.names),
                draw_predictions=self._evaluation.prediction_images,
                draw_plots=self._draw_plots,
                save=self._save,
                keep_batch=self._keep_batch,
                run_dir=self.run_dir,
                writer=self._writer,
            ),
        )
        for name, handler in own_handlers:
            self.handlers.add(name, handler)
        self._resumed_average = resumed.get("ema")
        if resumed:
            self._load(resumed)

    @property
    def evaluator(self) -> Engine:
        return self._evaluation.engine

    @property
    def ema_model(self) -> nn.Module:
        """The averaged model."""
        model: nn.Module = train_state(self.engine).ema_model
        return model

    @property
    def finished_epochs(self) -> int:
        return int(train_state(self.engine).iteration) // len(self.train_loader)

    def run(self) -> None:
        """Trains to the end, or until a stop is requested.

        Raises:
            UserError: the run stopped before its end; ``exit_code`` and message say why. ``stopped.json`` in the
                run's folder has both.
        """
        if self._started:
            raise RuntimeError("this run has been started before; build it again, with train.resume=auto to go on")
        self._started = True
        first_rank = idist.get_rank() == 0
        stopped_file = self.run_dir / "stopped.json"
        if first_rank:
            stopped_file.unlink(missing_ok=True)
            if self.engine.state.iteration == 0:
                (self.run_dir / "timing.csv").unlink(missing_ok=True)  # of an attempt without a checkpoint
            write_text(self.run_dir / "config.yaml", dump_config(self.config))
        if self.finished_epochs >= self.config.train.epochs:
            if first_rank and not self._was_finished and "strip" in self.handlers:
                self.handlers["strip"].run()
            logger.info(
                "%s is finished (%d epochs): nothing to resume; raise train.epochs to go on",
                self.run_dir,
                self.finished_epochs,
            )
            return
        if self._resumed_average is not None and self.ema_model is not self.model:
            self.ema_model.load_state_dict(self._resumed_average)  # once more: its handler may have been replaced
        self._resumed_average = None
        with ExitStack() as stack:
            if first_rank:
                (self.run_dir / "weights" / "final.pt").unlink(missing_ok=True)  # it says that a run is finished
            stack.callback(self._writer.close)
            stack.callback(self._evaluation.loader.close)
            stack.callback(lambda: self.train_loader.close())  # the one after the cutoff, if there was one
            if "stop" in self.handlers:
                stack.enter_context(self.handlers["stop"].listening())
            try:
                self.engine.run(
                    self.train_loader, max_epochs=self.config.train.epochs, epoch_length=len(self.train_loader)
                )
            except UserError as error:
                if first_rank:
                    _write_reason(stopped_file, error.exit_code, str(error))
                raise
        request = train_state(self.engine).stop_request
        if request is not None and first_rank:
            _write_reason(stopped_file, request.exit_code, request.reason)
        idist.barrier()  # rank 0 is done with its files: a launcher ends all ranks when one has ended
        if request is not None:
            kinds = {kind.exit_code: kind for kind in (NonFiniteError, StoppedError)}
            stopped = kinds.get(request.exit_code, UserError)(
                f"stopped in epoch {self.engine.state.epoch}: {request.reason}"
            )
            stopped.exit_code, stopped.on_all_ranks = request.exit_code, True
            raise stopped

    def state(self) -> dict[str, Any]:
        """The run's whole state as tensors and plain values, as a checkpoint holds it."""
        state = train_state(self.engine)
        return {
            "kind": "training",
            "config": self.config.model_dump(mode="json"),
            "names": list(self.names),
            "metrics": {name: value for name, value in state.validation.items() if name != "epoch"},
            "epoch": state.iteration // state.epoch_length,
            "model": self.model.state_dict(),
            "ema": state.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "engine": dict(self.engine.state_dict()),
            "handlers": self.handlers.state_dict(),
            "random": random_state(),
            "world_size": idist.get_world_size(),
            "data": self._fingerprints,
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

    def _refuse_other_run(self, content: dict[str, Any]) -> None:
        differences = config_differences(content["config"], self.config.model_dump(mode="json"))
        if content["names"] != self.names:
            differences.append(f"  class names: {content['names']} -> {self.names}")
        if content["data"] != self._fingerprints:
            differences.append("  the data set's files or labels have changed")
        if content["world_size"] != idist.get_world_size():
            differences.append(f"  number of ranks: {content['world_size']} -> {idist.get_world_size()}")
        if content["engine"]["epoch_length"] != len(self.train_loader):
            differences.append(
                f"  iterations an epoch: {content['engine']['epoch_length']} -> {len(self.train_loader)}"
            )
        if differences:
            raise ConfigError(
                f"{self.run_dir}: this is not the run that its checkpoint is of:\n" + "\n".join(differences) + "\n"
                "undo the changes to resume it, or start a new run (train.resume=none)"
            )

    def _make_loader(self, *, strong: bool) -> BatchLoader:
        config = self.config
        return build_train_loader(
            self._train_index,
            config.data,
            config.augment,
            seed=config.train.seed,
            strong=strong,
            rank=idist.get_rank(),
            world_size=idist.get_world_size(),
            stride=max(config.model.head.strides),
            cache=self._cache,
            pin_memory=self.device.type == "cuda",
        )

    def _swap_loader(self) -> BatchLoader:
        self.train_loader.close()
        self.train_loader = self._make_loader(strong=False)
        return self.train_loader

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

    def _keep_batch(self, batch: Any) -> str:
        path = self.run_dir / f"bad_batch_rank{idist.get_rank()}.pt"
        content = {"images": batch.images, "targets": batch.targets, "paths": list(batch.paths)}
        write_atomically(path, lambda file: torch.save(content, file))
        return str(path)


def build_training(config: Config) -> Training:
    """Puts a run together: data, model, loss, optimizer, engines and handlers.

    On several ranks every rank calls it, inside an initialised process group.

    Raises:
        ConfigError: the configuration does not fit this machine, the run's folder or its checkpoint.
        DatasetError: the data set cannot be used.
    """
    if config.data.dataset is None:
        raise ConfigError("data.dataset is not set: give a data set file, for example data.dataset=mine.yaml")
    if config.train.devices not in (1, idist.get_world_size()):
        raise ConfigError(
            f"train.devices: {config.train.devices}, but this process group has {idist.get_world_size()} rank(s); "
            "start with `python -m yolov6_ignite.train` or `torchrun --nproc_per_node`"
        )
    device = resolve_device(config.train.device)
    directory = from_rank_zero(lambda: choose_run_directory(config))
    chosen = resolve_precision(config, device)
    if directory.resumed_from is not None and config.train.precision == "auto":
        chosen = directory.resumed_from["config"]["train"]["precision"]
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": chosen})})
    with RunLog() as log:
        if config.model.training_mode == "repopt":
            logger.warning(
                "model.training_mode: repopt is trained here as a plain network, without the gradient masks of "
                "RepOptimizer; expect a lower accuracy than was published"
            )
        training = Training(config, directory, device)
        if idist.get_rank() == 0:
            log.write_to(directory.path / "train.log")
    return training


def _write_reason(path: Path, exit_code: int, reason: str) -> None:
    """What a launcher that knows only 0 and 1 cannot tell."""
    write_text(path, json.dumps({"exit_code": exit_code, "reason": reason}) + "\n")


def _load_data(config: Config) -> tuple[DatasetFile, DatasetIndex, DatasetIndex]:
    data = config.data
    assert data.dataset is not None
    name = data.dataset
    dataset = from_rank_zero(lambda: load_dataset_file(name))

    def index(directories: list[Path]) -> DatasetIndex:
        return build_index(
            directories,
            dataset.names,
            on_bad_label=data.on_bad_label,
            on_bad_image=data.on_bad_image,
            recheck=data.recheck,
        )

    train, val = from_rank_zero(lambda: (index(dataset.train), index(dataset.val)))
    return dataset, train, val
