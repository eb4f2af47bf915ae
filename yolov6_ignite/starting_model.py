"""The model that a run begins with: fresh, from other weights or from a hyper-search, and partly frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from yolov6_ignite.config import Config
from yolov6_ignite.distributed import from_rank_zero
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.optim import BlockScales, freeze, reinitialise, rep_scales
from yolov6_ignite.weights import find_weights, load_matching_weights, read_weights

__all__ = ["build_starting_model", "find_all_weights"]

logger = logging.getLogger(__name__)


def find_all_weights(config: Config) -> None:
    """Finds, or downloads, every weight file that a fresh run needs, before the data set is read.

    Raises:
        ConfigError: one is missing.
    """
    for name in (config.train.weights, config.model.scales, config.distill.teacher):
        if name is not None:
            _found(name)


def build_starting_model(
    config: Config, names: list[str], *, resumed: bool
) -> tuple[Detector, Mapping[str, BlockScales] | None]:
    """Builds the network to train, in train mode, on the CPU.

    Args:
        config: the whole configuration.
        names: class names of the data set.
        resumed: weights, and scales in the optimizer's state, come from a checkpoint.

    Returns:
        The model and, for ``model.training_mode: repopt``, the scales of its blocks where the run needs them.

    Raises:
        ConfigError: weights or scales cannot be used, or nothing is left to train.
    """
    model = build_model(config.model, len(names), fuse_ab=config.train.fuse_ab, distill_ns=config.distill_ns)
    model.names = list(names)
    scales = None
    if config.model.training_mode == "repopt" and not resumed:
        scales = _read_scales(config, model)
    if not resumed:
        if config.train.weights is not None:
            load_matching_weights(model, _found(config.train.weights))
        elif scales is not None:
            reinitialise(model, scales)
    if config.train.freeze:
        frozen = freeze(model, config.train.freeze)
        logger.info("train.freeze: %d parameters of %s do not train", len(frozen), ", ".join(config.train.freeze))
        if config.train.weights is None and not resumed:
            logger.warning("train.freeze without train.weights: what is frozen is random")
    return model, scales


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
