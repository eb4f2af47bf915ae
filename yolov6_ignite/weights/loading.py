"""Models from weight files, ours and officially released ones, and weights into models."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from yolov6_ignite.checkpoint import averaged_weights, checked_checkpoint, is_checkpoint
from yolov6_ignite.config import Config, DataConfig
from yolov6_ignite.config_file import load_config
from yolov6_ignite.data import load_dataset_file
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.models.scaling import scaled
from yolov6_ignite.quantization import QuantizationSpec, check_calibrated, fold_batch_norms, quantized_model, set_mode
from yolov6_ignite.restricted_pickle import read_archive
from yolov6_ignite.weights.download import find_weights
from yolov6_ignite.weights.official import official_weights
from yolov6_ignite.weights.recognise import recognise

__all__ = [
    "Weights",
    "load_matching_weights",
    "load_model",
    "load_model_and_config",
    "load_trained_weights",
    "read_weights",
]

logger = logging.getLogger(__name__)

EXPORTED = (".bin", ".engine", ".onnx", ".torchscript", ".xml")
TRAINING_ONLY = ("_preds_ab.", "_preds_dist.")  # branches of the head that detection does not use


@dataclass(frozen=True)
class Weights:
    """What a weight file holds, whoever wrote it.

    Attributes:
        path: the file.
        state: averaged weights by their published names, fp32.
        names: class names.
        config: what the model was trained with; for an official file the recipe that has its network, or the
            defaults with a network inferred from the weights.
        metrics: accuracies that the file tells of itself.
        epoch: finished epochs, 0 when the file does not say.
        quantization: of a quantised model.
    """

    path: Path
    state: dict[str, Tensor]
    names: list[str]
    config: Config
    metrics: Mapping[str, float]
    epoch: int
    quantization: QuantizationSpec | None = None

    def build(self) -> Detector:
        """The model with these weights, in eval mode, without gradients, on the CPU; a quantised one quantises.

        Raises:
            ConfigError: the weights do not fit their own recipe.
        """

        def build() -> Detector:
            model = build_model(
                self.config.model,
                len(self.names),
                fuse_ab="detect.cls_preds_ab.0.weight" in self.state,
                distill_ns="detect.reg_preds_dist.0.weight" in self.state,
            )
            return model if self.quantization is None else quantized_model(model, self.quantization)

        try:  # a recipe can ask for more time and memory than there is, its weights cannot
            self._require_room()
            with torch.device("meta"):
                built = build().state_dict()
        except (ConfigError, ArithmeticError) as error:
            raise ConfigError(f"{self.path}: its weights do not fit their recipe: {error}") from error
        self._require_fit(built)
        model = build()
        model.load_state_dict(self.state)
        model.names = list(self.names)
        if self.quantization is not None:
            try:
                check_calibrated(model)
            except ConfigError as error:
                raise ConfigError(f"{self.path}: {error}") from error
            set_mode(model, "quantize")
        return model.eval().requires_grad_(False)

    def _require_room(self) -> None:
        """Refuses a recipe of more blocks than there are weights, or with more channels than they have numbers."""
        model = scaled(self.config.model)
        backbone, neck = model.backbone, model.neck
        blocks = sum(backbone.num_repeats) + sum(neck.num_repeats)
        numbers = sum(weight.numel() for weight in self.state.values())
        if blocks > len(self.state) or max(numbers, *backbone.out_channels, *neck.out_channels) > numbers:
            raise ConfigError("it asks for more blocks or channels than they have")

    def _require_fit(self, built: Mapping[str, Tensor]) -> None:
        """Refuses weights that are not, by name and shape, those of the network that was built."""
        common = built.keys() & self.state.keys()
        differences = {
            "missing": built.keys() - common,
            "unknown": self.state.keys() - common,
            "of another shape": [key for key in common if built[key].shape != self.state[key].shape],
        }
        found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in differences.items() if keys]
        if found:
            raise ConfigError(f"{self.path}: its weights do not fit their recipe or class names: {', '.join(found)}")


def load_model(weights: str | Path, *, deploy: bool = False, recipe: str | Path | None = None) -> nn.Module:
    """The averaged model of a weight file, ready to predict: eval mode, fp32, on the CPU.

    Args:
        weights: a checkpoint of this project, whole or stripped, or an official ``.pt`` of release 0.2, 0.3 or 0.4.
            The name of an official file that is not there is downloaded into the user's cache folder.
        deploy: return the fused, re-parameterised copy.
        recipe: the recipe of an official file, when it should not be inferred.

    Returns:
        A model with ``names`` (class names) and ``stride`` (the largest, in pixels).

    Raises:
        ConfigError: the file is missing, damaged, asks for more than tensors and layers, or does not fit its recipe.
    """
    read = read_weights(weights, recipe=recipe)
    model = read.build()
    if not deploy:
        return model
    return model.deploy() if read.quantization is None else fold_batch_norms(model)


def load_model_and_config(weights: str | Path) -> tuple[Detector, Config]:
    """Like :func:`load_model`, with the configuration that the model was trained with."""
    read = read_weights(weights)
    return read.build(), read.config


def load_matching_weights(model: nn.Module, weights: str | Path) -> None:
    """Starts a model from other weights: entries of equal name and shape are taken, the rest is listed in the log.

    Raises:
        ConfigError: the file holds no weights, or less than half of the model is in it: it is of another model.
    """
    read = read_weights(weights)
    if read.quantization is not None:
        raise ConfigError(f"train.weights: {weights} is quantised; give the weights that it was made from")
    given, own = read.state, model.state_dict()
    taken = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if 2 * len(taken) < len(own):
        raise ConfigError(
            f"train.weights: {weights} is of another model: only {len(taken)} of {len(own)} entries fit; "
            "choose the recipe that it was trained with"
        )
    model.load_state_dict(taken, strict=False)
    logger.info("train.weights: %d of %d entries taken from %s", len(taken), len(own), weights)
    for title, keys in (("fresh", own.keys() - taken.keys()), ("not used", given.keys() - taken.keys())):
        if keys:
            logger.warning("train.weights: %d entries %s: %s", len(keys), title, ", ".join(sorted(keys)))


def load_trained_weights(model: nn.Module, weights: str | Path) -> Weights:
    """Gives a model all of its weights; what the file has for training only is left out.

    Returns:
        What the file holds.

    Raises:
        ConfigError: the file holds no float weights, or those of another network.
    """
    read = read_weights(weights)
    if read.quantization is not None:
        raise ConfigError(f"train.weights: {weights} is quantised already; give the weights that it was made from")
    own = model.state_dict()
    given = {key: value for key, value in read.state.items() if not any(part in key for part in TRAINING_ONLY)}
    wrong = [key for key in own.keys() | given.keys() if key not in own or key not in given]
    wrong += [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    if wrong:
        advice = "choose the recipe and the data set that it was trained with"
        if len(given) < len(read.state) and all("reg_preds." in key for key in wrong):
            advice = "its distances are direct ones; set model.head.use_dfl: false and model.head.reg_max: 0"
        raise ConfigError(
            f"train.weights: {weights} is of another network or number of classes: {len(wrong)} of {len(own)} entries "
            f"do not fit ({_some(wrong)}); {advice}"
        )
    model.load_state_dict(given)
    return read


def read_weights(weights: str | Path, *, recipe: str | Path | None = None) -> Weights:
    """Reads a weight file of ours or an official one; nothing in it is run.

    Arguments and errors are those of :func:`load_model`.
    """
    path = find_weights(weights)
    try:
        content = read_archive(path)
    except ConfigError as error:
        if path.suffix.lower() not in EXPORTED:
            raise
        raise ConfigError(f"{path}: is an exported file; give the checkpoint (.pt) that it was made from") from error
    if not is_checkpoint(content):
        return _read_official(path, content, recipe)
    if recipe is not None:
        raise ConfigError(f"{path}: carries its own recipe; leave {recipe} away")
    content = checked_checkpoint(path, content)
    try:
        config = Config.model_validate(content["config"])
    except ValidationError as error:
        raise ConfigError(f"{path}: its recipe is not one of this version ({error.error_count()} problems)") from error
    quantization = None
    if content.get("quantization") is not None:
        try:
            quantization = QuantizationSpec.from_dict(content["quantization"])
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return Weights(
        path=path,
        state=averaged_weights(content),
        names=list(content["names"]),
        config=config,
        metrics=content["metrics"],
        epoch=content["epoch"],
        quantization=quantization,
    )


def _some(keys: Collection[str]) -> str:
    """The first three keys."""
    return ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")


def _read_official(path: Path, content: Any, recipe: str | Path | None) -> Weights:
    official = official_weights(path, content)
    try:
        recognised = recognise(official.state, classes=official.classes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if recipe is not None:
        config = load_config(recipe)
    elif recognised.recipe is not None:
        config = load_config(recognised.recipe).model_copy(update={"model": recognised.model})
    else:
        p6 = recognised.model.size_multiple > 32  # such networks were trained at twice the size
        config = Config(model=recognised.model, data=DataConfig(image_size=1280 if p6 else 640))
    logger.info("%s: %s", path, recipe or recognised.recipe or "a network of no recipe")
    names = official.names
    if names is None:  # a released file was trained on COCO
        coco = load_dataset_file("coco", splits=()).names
        names = coco if len(coco) == official.num_classes else [str(i) for i in range(official.num_classes)]
    return Weights(path, official.state, names, config, metrics={}, epoch=0)
