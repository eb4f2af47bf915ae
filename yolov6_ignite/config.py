"""Typed configuration: the sections together, and what they may not say together.

The keys are in :mod:`yolov6_ignite.config_sections`; reading from YAML (``base:``, overrides, origins) is in
:mod:`yolov6_ignite.config_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, model_validator

from yolov6_ignite.config_sections import (
    AugmentConfig,
    BackboneConfig,
    CheckpointConfig,
    DataConfig,
    DistillConfig,
    EvalConfig,
    HeadConfig,
    LoggingConfig,
    ModelConfig,
    NeckConfig,
    QuantConfig,
    Section,
    SolverConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EvalConfig",
    "HeadConfig",
    "LoggingConfig",
    "ModelConfig",
    "NeckConfig",
    "QuantConfig",
    "SolverConfig",
    "TrainConfig",
]


class Config(Section):
    """The whole configuration of a run."""

    model: ModelConfig
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    solver: SolverConfig = SolverConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    distill: DistillConfig = DistillConfig()
    quant: QuantConfig = QuantConfig()
    handlers: list[str | dict[str, Any]] = Field(
        default_factory=list
    )  # module:Class, or {module:Class: arguments, ...}
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Folder of the file that it was read from; None for a shipped recipe."""
        return self._folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.model_dump() == other.model_dump()  # wherever they were read from

    @property
    def distill_ns(self) -> bool:
        """Whether distillation is that of N and S, whose head predicts distances beside their distribution.

        Not in quantisation-aware training: there the network is the calibrated one.
        """
        if self.quant.mode == "qat":
            return False
        return self.distill.teacher is not None and self.model.type in {"YOLOv6n", "YOLOv6s"}

    @model_validator(mode="after")
    def _training_modes_fit(self) -> Config:
        backbone, head = self.model.backbone.type, self.model.head
        three_levels = head.num_layers == 3
        if self.train.fuse_ab and (not three_levels or head.anchors_init is None):
            lacks = "three levels" if not three_levels else "model.head.anchors_init"
            raise ValueError(f"train.fuse_ab: true needs {lacks}; this network has none; set it to false")
        if self.model.scales is not None and self.model.training_mode != "repopt":
            raise ValueError("model.scales: is for model.training_mode: repopt; set that, or remove it")
        if self.model.training_mode == "repopt" and self.solver.optim != "SGD":
            raise ValueError(f"solver.optim: {self.solver.optim} cannot train model.training_mode: repopt; use SGD")
        if self.distill.teacher is None:
            if self.distill.features:
                raise ValueError("distill.features: true needs distill.teacher; give one, or set it to false")
            return self
        if self.train.fuse_ab:
            raise ValueError("distill.teacher and train.fuse_ab exclude each other; remove one of them")
        if backbone in {"Lite_EffiBackbone", "EfficientRep6"}:
            raise ValueError(f"distill.teacher: networks with {backbone} cannot be distilled; remove it")
        if not head.use_dfl and self.quant.mode != "qat":
            raise ValueError(
                "distill.teacher: there are no distributions to compare; set model.head.use_dfl: true and "
                "model.head.reg_max: 16"
            )
        return self

    @model_validator(mode="after")
    def _quantisation_fits(self) -> Config:
        if self.quant.mode == "none":
            return self
        if self.quant.mode == "qat":
            refused = {
                "train.weights": (self.train.weights is not None, "the weights are those of quant.calibrated"),
                "train.fuse_ab": (self.train.fuse_ab, "the calibrated network has no such branch"),
                "train.sync_bn": (self.train.sync_bn, "batch norms may carry quantisers, which it would drop"),
                "data.batch_size": (self.data.batch_size == "auto", "auto measures the network in floating point"),
            }
        else:
            refused = {
                "train.resume": (self.train.resume != "none", "a calibration is short; start it again"),
                "train.find_lr": (self.train.find_lr, "nothing is trained"),
                "distill.teacher": (self.distill.teacher is not None, "nothing is trained"),
            }
        for key, (given, why) in refused.items():
            if given:
                raise ValueError(f"{key}: does not go with quant.mode: {self.quant.mode}: {why}")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Config:
        multiple = self.model.size_multiple
        for key, size in (("data.image_size", self.data.image_size), ("eval.image_size", self.eval.image_size)):
            for side in (size,) if isinstance(size, int) else size or ():
                if side % multiple:
                    up = -(-side // multiple) * multiple
                    raise ValueError(f"{key}: {side} is not a multiple of {multiple}, as this network needs; use {up}")
        last_n = self.augment.stop_last_n_epochs
        if last_n > self.train.epochs and (self.augment.mosaic > 0 or self.augment.mixup > 0):
            raise ValueError(
                f"augment.stop_last_n_epochs: {last_n} is longer than the run (train.epochs: {self.train.epochs}); "
                "lower it, raise train.epochs, or set augment.mosaic and augment.mixup to 0"
            )
        if self.data.batch_size != "auto" and self.data.batch_size < self.train.devices:
            raise ValueError(
                f"data.batch_size: {self.data.batch_size} is less than train.devices: {self.train.devices}; "
                "it is the total over all devices"
            )
        if self.train.sync_bn and self.train.device in {"cpu", "mps"}:
            raise ValueError(f"train.sync_bn needs CUDA devices (train.device is {self.train.device})")
        if self.train.devices > 1 and (self.train.device == "mps" or ":" in self.train.device):
            raise ValueError(f"train.devices: {self.train.devices} cannot all be train.device: {self.train.device}")
        if self.data.rect and not isinstance(self.data.image_size, int):
            raise ValueError(
                "data.rect: true makes every batch's shape from its images; give one number as data.image_size"
            )
        if self.data.rect and self.data.repeat_factor:
            raise ValueError("data.repeat_factor and data.rect: true exclude each other; set one of them to 0 or false")
        if self.train.find_lr and self.train.devices > 1:
            raise ValueError("train.find_lr: true is for one device; set train.devices: 1")
        if self.train.patience and self.eval.final_only:
            raise ValueError("train.patience needs evaluations on the way; set eval.final_only: false")
        if self.train.minimum_change and not self.train.patience:
            raise ValueError("train.minimum_change needs train.patience; give one, or remove it")
        if len(set(self.logging.trackers)) < len(self.logging.trackers):
            raise ValueError(f"logging.trackers: {self.logging.trackers} names one twice")
        if self.eval.shrink_px >= min(
            self.data.height_width if self.eval.image_size is None else (self.eval.image_size,)
        ):
            raise ValueError(f"eval.shrink_px: {self.eval.shrink_px} leaves nothing of the image")
        return self
