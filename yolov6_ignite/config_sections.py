"""The sections of a configuration: every key, its type, range and default.

Defaults are the reference's (specification, training 1.1, 2.2, 4 and 18) unless a comment says otherwise.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "CheckpointConfig",
    "DataConfig",
    "DistillConfig",
    "EvalConfig",
    "HeadConfig",
    "LoggingConfig",
    "ModelConfig",
    "NeckConfig",
    "QuantConfig",
    "Section",
    "SolverConfig",
    "TrainConfig",
]

Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
CspRatio = Annotated[float, Field(gt=0, le=1)]  # hidden channels of a CSP stage as a part of its output


class Section(BaseModel):
    """A frozen section; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class BackboneConfig(Section):
    """Backbone stages before scaling (specification, models 2 and 4)."""

    type: Literal["EfficientRep", "EfficientRep6", "CSPBepBackbone", "CSPBepBackbone_P6", "Lite_EffiBackbone"]
    num_repeats: list[PositiveInt]
    out_channels: list[PositiveInt]
    fuse_P2: bool = False  # noqa: N815, the official key
    cspsppf: bool = False
    csp_e: CspRatio | None = None
    stage_block_type: Literal["BepC3", "MBLABlock"] = "BepC3"
    scale_size: Annotated[float, Field(gt=0, le=1)] = 0.5  # Lite: hidden channels of a unit as a part of its output


class NeckConfig(Section):
    """Neck stages before scaling (specification, models 2 and 5)."""

    type: Literal[
        "RepPANNeck",
        "RepBiFPANNeck",
        "RepPANNeck6",
        "RepBiFPANNeck6",
        "CSPRepPANNeck",
        "CSPRepBiFPANNeck",
        "CSPRepPANNeck_P6",
        "CSPRepBiFPANNeck_P6",
        "Lite_EffiNeck",
    ]
    num_repeats: list[PositiveInt] = []
    out_channels: list[PositiveInt] = []
    csp_e: CspRatio | None = None
    stage_block_type: Literal["BepC3", "MBLABlock"] = "BepC3"
    unified_channels: PositiveInt | None = None  # Lite: of every level


class HeadConfig(Section):
    """Head and the loss settings that belong to it (specification, models 6)."""

    type: Literal["EffiDeHead", "Lite_EffideHead"] = "EffiDeHead"
    num_layers: Literal[3, 4] = 3
    strides: list[PositiveInt] = [8, 16, 32]
    anchors_init: list[list[Positive]] | None = None  # width, height, width, ... in pixels; a list a level
    atss_warmup_epoch: Count = 0
    iou_type: Literal["giou", "diou", "ciou", "siou"] = "giou"
    use_dfl: bool = False
    reg_max: Literal[0, 16] = 0

    @model_validator(mode="after")
    def _dfl_has_bins(self) -> HeadConfig:
        if self.use_dfl != (self.reg_max == 16):
            raise ValueError("use_dfl: true needs reg_max: 16, use_dfl: false needs reg_max: 0")
        return self


class ModelConfig(Section):
    """The network."""

    type: str
    depth_multiple: Positive = 1.0
    width_multiple: Positive = 1.0
    training_mode: Literal["repvgg", "qarepvgg", "qarepvggv2", "hyper_search", "repopt", "conv_relu", "conv_silu"] = (
        "repvgg"
    )
    scales: str | None = None  # repopt: the checkpoint of the hyper-search stage; opened when training is built
    backbone: BackboneConfig
    neck: NeckConfig
    head: HeadConfig

    @property
    def size_multiple(self) -> int:
        """Pixels that both sides of an image must be a multiple of; the coarsest Lite level rounds up by itself."""
        return 32 if self.backbone.type == "Lite_EffiBackbone" else max(self.head.strides)


class DataConfig(Section):
    """The data set and how batches are made of it."""

    dataset: str | None = None  # a data set YAML; `shapes` draws one
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 640  # pixels; one number or (height, width)
    batch_size: PositiveInt | Literal["auto"] = 32  # total over all devices; auto: as many as memory_fraction holds
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8  # of a device's memory, for batch_size: auto
    workers: Count = 8  # per device
    cache: Literal["none", "ram"] = "none"
    rect: bool = False  # train on rectangular batches: sorted by shape, not shuffled
    on_bad_label: Literal["skip", "error"] = "skip"
    on_bad_image: Literal["skip", "error"] = "skip"
    recheck: bool = False  # ignore the cached index and read every file again
    class_weights: Literal["none", "inverse", "sqrt_inverse"] = "none"  # of the classification loss, by frequency
    repeat_factor: Probability = 0.0  # classes in fewer than this part of the images: show those more often

    @property
    def images_per_batch(self) -> int:
        """`batch_size`, once it is a number.

        Raises:
            ValueError: it is still ``auto``.
        """
        if self.batch_size == "auto":
            raise ValueError("data.batch_size: auto has not been resolved yet")
        return self.batch_size

    @property
    def height_width(self) -> tuple[int, int]:
        """Training size in pixels as (height, width)."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


class AugmentConfig(Section):
    """Augmentation ranges (specification, training 12.8)."""

    hsv_h: Probability = 0.015
    hsv_s: Probability = 0.7
    hsv_v: Probability = 0.4
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Probability = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # degrees
    flipud: Probability = 0.0
    fliplr: Probability = 0.5
    mosaic: Probability = 1.0
    mixup: Probability = 0.0
    stop_last_n_epochs: int = 15  # without mosaic and mixup; negative: never


class SolverConfig(Section):
    """Optimizer, schedule and warm-up (specification, training 4 and 5)."""

    optim: Literal["SGD", "Adam", "AdamW"] = "SGD"
    lr_scheduler: Literal["Cosine", "Linear", "Constant"] = "Cosine"
    lr0: Positive = 0.01
    lrf: Probability = 0.01  # final learning rate as a fraction of lr0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.937
    weight_decay: NonNegative = 0.0005
    warmup_epochs: NonNegative = 3.0
    warmup_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    warmup_bias_lr: NonNegative = 0.1
    warmup_min_iterations: Count = 1000
    max_gradient_norm: NonNegative = 0.0  # gradients are scaled down to it; 0: never
    nominal_batch_size: PositiveInt = 64  # images in an optimizer step: smaller batches are accumulated up to it
    reference_world_size: PositiveInt = 1  # devices of the recipe: README, several devices
    reference_device_batch: PositiveInt = 32


class TrainConfig(Section):
    """The run."""

    epochs: PositiveInt = 400
    seed: Count = 0
    device: str = "auto"  # auto, cpu, cuda or mps
    devices: PositiveInt = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deterministic: bool = False  # deterministic CUDA kernels: needed there for a bit-exact resume
    sync_bn: bool = False  # batch norm statistics over all CUDA devices
    fuse_ab: bool = False  # anchor-aided training: a second head and loss, for training only
    weights: str | None = None  # start from these weights
    freeze: list[str] = []  # modules that do not train: backbone, neck.Rep_p4, ...
    resume: str = "none"  # none, auto (continue output_dir/name) or a checkpoint
    output_dir: str = "runs/train"
    name: str = "exp"
    time_limit: Positive | None = None  # hours; then the run stops and can be resumed
    patience: Count = 0  # stop after so many evaluations without an improvement of AP; 0: never
    minimum_change: NonNegative = 0.0  # of AP, to count as an improvement
    find_lr: bool = False  # search a learning rate in a hundred steps and end
    profile: bool = False  # time every handler, and loading against computing
    max_bad_steps: PositiveInt = 16  # non-finite optimizer steps in a row before the run stops

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not value or "/" in value or value in {".", ".."}:
            raise ValueError("must be a single folder name; put the folders before it into train.output_dir")
        return value


class EvalConfig(Section):
    """Evaluation during training, and the defaults of the evaluate command."""

    interval: PositiveInt = 20
    heavy_range: Count = 50  # in the last so many epochs the interval is at most 3
    final_only: bool = False
    batch_size: PositiveInt = 32  # per device; batches do not depend on the number of devices
    image_size: PositiveInt | None = None  # default: data.image_size, the longer side
    conf_threshold: Probability = 0.03
    iou_threshold: Probability = 0.65
    max_detections: PositiveInt = 300
    shrink_px: Count = 0  # subtracted from the size that images are resized to
    rect: bool = True  # rectangular batches, padded by half a stride
    verbose: bool = False  # a table by class in the log
    plots: bool = True
    loss: bool = False  # also the training objective on the validation images


class DistillConfig(Section):
    """Self-distillation from a teacher (specification, training 11.8 and 11.9)."""

    teacher: str | None = None  # its weights; with them distillation is on
    temperature: Positive = 20.0
    features: bool = False  # also compare the necks' maps, channel by channel
    weights: dict[Literal["class", "dfl"], NonNegative] = {"class": 1.0, "dfl": 1.0}

    @field_validator("weights", mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        return {"class": 1.0, "dfl": 1.0, **value} if isinstance(value, dict) else value


class QuantConfig(Section):
    """Quantisation of a trained network: its calibration, or training of what calibration gave."""

    mode: Literal["none", "ptq", "qat"] = "none"  # ptq calibrates train.weights and ends; qat trains quant.calibrated
    target: Literal["onnxruntime", "tensorrt"] = "onnxruntime"  # whose integers: see QuantizationSpec
    bits: Annotated[int, Field(ge=2, le=8)] = 8  # fewer are for experiments; no runtime has them
    method: Literal["max", "entropy", "percentile", "mse"] = "max"  # how the range of an activation is chosen
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.99  # for method percentile
    batches: PositiveInt = 16  # of eval.batch_size training images, without augmentation, over all devices
    skip: list[str] | str = []  # layers in floating point: names or patterns, or a file of them (sensitivity.csv)
    most_sensitive: Count = 0  # only so many of that file's first layers; 0: all of them
    sensitivity: bool = False  # ptq: also measure AP with one layer quantised at a time
    calibrated: str | None = None  # qat: the file that ptq wrote; everything above is as it says
    freeze_batch_norm_after: Count | None = None  # qat: epochs after which batch norms keep their statistics

    @model_validator(mode="after")
    def _fits_its_mode(self) -> QuantConfig:
        if self.mode != "ptq":
            default = QuantConfig.model_construct(mode=self.mode)
            of_ptq = ("target", "bits", "method", "percentile", "batches", "skip", "most_sensitive", "sensitivity")
            for key in of_ptq:
                if getattr(self, key) != getattr(default, key):
                    advice = "remove it" if self.mode == "qat" else "set that, or remove it"
                    raise ValueError(f"{key}: is for quant.mode: ptq; {advice}")
        for key in ("calibrated", "freeze_batch_norm_after"):
            if self.mode != "qat" and getattr(self, key) is not None:
                raise ValueError(f"{key}: is for quant.mode: qat; set that, or remove it")
        if self.percentile != 99.99 and self.method != "percentile":
            raise ValueError(f"percentile: is for method: percentile, not {self.method}; remove it")
        if self.sensitivity and self.skip:
            raise ValueError("sensitivity: is measured of every layer; leave skip away")
        if self.most_sensitive and not isinstance(self.skip, str):
            raise ValueError("most_sensitive: counts the lines of a file; give the file as quant.skip, or remove it")
        return self


class CheckpointConfig(Section):
    """Which checkpoints are kept besides last and best."""

    last_n_epochs: Count = 0  # keep {epoch}_ckpt.pt of the last so many epochs
    every_iterations: Count = 0  # also write last_ckpt.pt every so many iterations; 0: at epoch ends only


class LoggingConfig(Section):
    """What is shown and written while training."""

    train_batch_images: bool = False  # first batch of every epoch to TensorBoard
    prediction_images: bool = True
    interval: PositiveInt = 10  # iterations between progress updates: each reads the losses once
    trackers: list[Literal["mlflow", "wandb", "clearml", "neptune"]] = []  # each needs its package
