"""The model that a run begins with: fresh, from other weights, a hyper-search or a calibration, and partly frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov6_ignite.config import Config
from yolov6_ignite.distributed import from_rank_zero
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.optim import BlockScales, freeze, reinitialise, rep_scales
from yolov6_ignite.quantization import QuantizationSpec, quantized_layers, quantized_model, set_mode
from yolov6_ignite.weights import Weights, find_weights, load_matching_weights, load_trained_weights, read_weights

__all__ = ["FINE_LR0", "build_calibration_model", "build_starting_model", "find_all_weights"]

logger = logging.getLogger(__name__)

FINE_LR0 = 0.01
"""Recipes that train from scratch have this learning rate or a larger one; those that fine-tune stay below."""


def find_all_weights(config: Config) -> None:
    """Finds, or downloads, every weight file that a fresh run needs, before the data set is read.

    Raises:
        ConfigError: one is missing, or ``quant.calibrated`` is not calibrated.
    """
    if config.quant.mode == "qat":
        _calibrated_weights(config)
    for name in (config.train.weights, config.model.scales, config.distill.teacher, config.quant.calibrated):
        if name is not None:
            _found(name)


def build_starting_model(
    config: Config, names: list[str], *, resumed: Mapping[str, Any] | None
) -> tuple[Detector, Mapping[str, BlockScales] | None, QuantizationSpec | None]:
    """Builds the network to train, in train mode, on the CPU.

    Args:
        config: the whole configuration.
        names: class names of the data set.
        resumed: a checkpoint; weights, and scales in the optimizer's state, come from it.

    Returns:
        The model; for ``model.training_mode: repopt`` the scales of its blocks where the run needs them; and for
        ``quant.mode: qat`` what is quantised of it.

    Raises:
        ConfigError: weights, scales or the calibrated file cannot be used, or nothing is left to train.
    """
    model = build_model(config.model, len(names), fuse_ab=config.train.fuse_ab, distill_ns=config.distill_ns)
    model.names = list(names)
    scales = None
    if config.model.training_mode == "repopt" and resumed is None:
        scales = _read_scales(config, model)
    spec = None
    if config.quant.mode == "qat":
        model, spec = _quantized(config, model, resumed)
    elif resumed is None:
        if config.train.weights is not None:
            load_matching_weights(model, _found(config.train.weights))
        elif scales is not None:
            reinitialise(model, scales)
    if config.train.freeze:
        frozen = freeze(model, config.train.freeze)
        logger.info("train.freeze: %d parameters of %s do not train", len(frozen), ", ".join(config.train.freeze))
        if config.train.weights is None and resumed is None and spec is None:
            logger.warning("train.freeze without train.weights: what is frozen is random")
    return model.train(), scales, spec


def build_calibration_model(config: Config, names: list[str]) -> Detector:
    """The float network to calibrate, with all of its weights, in eval mode, on the CPU.

    Args:
        config: the whole configuration.
        names: class names of the data set.

    Raises:
        ConfigError: ``train.weights`` is missing, or of another network.
    """
    if config.train.weights is None:
        raise ConfigError("train.weights: is required by quant.mode: ptq; give the checkpoint to quantise")
    model = build_model(config.model, len(names))
    model.names = list(names)
    path = _found(config.train.weights)
    given = load_trained_weights(model, path)
    if given.config.model.training_mode != config.model.training_mode:
        raise ConfigError(
            f"train.weights: {path} was trained with model.training_mode: {given.config.model.training_mode}, not "
            f"{config.model.training_mode}; choose the recipe that it was trained with"
        )
    _check_classes(f"train.weights: {path}", given.names, names)
    return model.eval()


def _quantized(config: Config, model: Detector, resumed: Mapping[str, Any] | None) -> tuple[Detector, QuantizationSpec]:
    """The calibrated form of a network; the weights of a resumed run are loaded later."""
    if resumed is not None:
        try:
            spec = QuantizationSpec.from_dict(resumed.get("quantization"))  # type: ignore[arg-type]
            quantized = quantized_model(model, spec)
        except ConfigError as error:
            raise ConfigError(f"the checkpoint to resume from: {error}; use an earlier one") from error
        if _shapes(quantized.state_dict()) != _shapes(resumed["model"]):
            raise ConfigError(
                "the checkpoint to resume from: its weights do not fit its quantisation; use an earlier one"
            )
        set_mode(quantized, "quantize")
        return quantized, spec
    read, spec = _calibrated_weights(config)
    calibrated = read.build()
    quantized = quantized_model(model, spec)
    own, given = quantized.state_dict(), calibrated.state_dict()
    if _shapes(own) != _shapes(given):
        raise ConfigError(
            f"quant.calibrated: {read.path} is of another network or number of classes; choose the recipe and the data "
            "set that it was calibrated with"
        )
    _check_classes(f"quant.calibrated: {read.path}", read.names, model.names)
    if config.quant.freeze_batch_norm_after is not None and not spec.keep_batch_norm:
        logger.warning("quant.freeze_batch_norm_after: this network is quantised without batch norms")
    quantized.load_state_dict(given)
    set_mode(quantized, "quantize")
    accuracy = read.metrics.get("val/mAP@0.50:0.95")
    logger.info(
        "quant.calibrated: %s: %s%s",
        read.path,
        spec.summary(quantized_layers(quantized)),
        "" if accuracy is None else f"; mAP@0.50:0.95 {accuracy:.4f} before this training",
    )
    if config.solver.lr0 >= read.config.solver.lr0 and config.solver.lr0 >= FINE_LR0:
        logger.warning(
            "solver.lr0: %g is that of a training from scratch, and there is no warm-up: the network will forget what "
            "it knows; try a sixteenth, %g",
            config.solver.lr0,
            config.solver.lr0 / 16,
        )
    return quantized, spec


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _check_classes(where: str, given: list[str], names: list[str]) -> None:
    """Refuses names in another order, under which others were trained; tells of other names."""
    if given == names or given == [str(number) for number in range(len(given))]:  # numbers stand for no names
        return
    number = next(i for i, pair in enumerate(zip(given, names, strict=True)) if pair[0] != pair[1])
    text = f"{where} has the class {number} as {given[number]!r}, the data set as {names[number]!r}"
    if sorted(given) == sorted(names):
        raise ConfigError(f"{text}: another order; choose the data set that it was trained on")
    logger.warning("%s; the names of the data set are kept", text)


def _calibrated_weights(config: Config) -> tuple[Weights, QuantizationSpec]:
    if config.quant.calibrated is None:
        raise ConfigError(
            "quant.calibrated: is required by quant.mode: qat; give the file that a run of quant.mode: ptq wrote"
        )
    path = _found(config.quant.calibrated)
    read = read_weights(path)
    if read.quantization is None:
        raise ConfigError(
            f"quant.calibrated: {path} is not calibrated; make one of it with quant.mode=ptq train.weights={path}"
        )
    return read, read.quantization


def _read_scales(config: Config, model: Detector) -> Mapping[str, BlockScales]:
    if config.model.scales is None:
        raise ConfigError(
            "model.scales: is required by model.training_mode: repopt; give the checkpoint of a training with "
            "model.training_mode: hyper_search (the *_hs recipes)"
        )
    path = _found(config.model.scales)
    return rep_scales(model, read_weights(path).state, f"model.scales: {path}")


def _found(name: str) -> Path:
    return from_rank_zero(lambda: find_weights(name))
