"""The model that a run begins with: fresh, from other weights, a hyper-search or a calibration, and partly frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolov6_ignite.config import Config
from yolov6_ignite.distributed import from_rank_zero
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.optim import BlockScales, freeze, reinitialise, rep_scales
from yolov6_ignite.quantization import QuantizationSpec, quantized_model, set_mode
from yolov6_ignite.weights import find_weights, load_matching_weights, load_trained_weights, read_weights

__all__ = ["build_calibration_model", "build_starting_model", "find_all_weights"]

logger = logging.getLogger(__name__)


def find_all_weights(config: Config) -> None:
    """Finds, or downloads, every weight file that a fresh run needs, before the data set is read.

    Raises:
        ConfigError: one is missing.
    """
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
    load_trained_weights(model, _found(config.train.weights))
    return model.eval()


def _quantized(config: Config, model: Detector, resumed: Mapping[str, Any] | None) -> tuple[Detector, QuantizationSpec]:
    """The calibrated form of a network; the weights of a resumed run are loaded later."""
    if resumed is not None:
        spec = QuantizationSpec.from_dict(resumed["quantization"] or {})
        quantized = quantized_model(model, spec)
        set_mode(quantized, "quantize")
        return quantized, spec
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
    calibrated = read.build()
    quantized = quantized_model(model, read.quantization)
    own, given = quantized.state_dict(), calibrated.state_dict()
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in given.items()}:
        raise ConfigError(
            f"quant.calibrated: {path} is of another network or number of classes; choose the recipe and the data set "
            "that it was calibrated with"
        )
    quantized.load_state_dict(given)
    set_mode(quantized, "quantize")
    return quantized, read.quantization


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
