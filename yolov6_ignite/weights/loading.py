"""Models from weight files, and weights into models."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from yolov6_ignite.checkpoint import averaged_weights, read_checkpoint
from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model

__all__ = ["load_matching_weights", "load_model", "load_model_and_config"]

logger = logging.getLogger(__name__)


def load_model(weights: str | Path, *, deploy: bool = False) -> nn.Module:
    """The averaged model of a checkpoint, ready to predict: eval mode, fp32, on the CPU.

    Args:
        weights: a checkpoint of this project, whole or stripped.
        deploy: return the fused, re-parameterised copy.

    Returns:
        A model with ``names`` (class names) and ``stride`` (the largest, in pixels).

    Raises:
        ConfigError: the file is missing, damaged, or does not fit its own recipe.
    """
    model = load_model_and_config(weights)[0]
    return model.deploy() if deploy else model


def load_model_and_config(weights: str | Path) -> tuple[Detector, Config]:
    """Like :func:`load_model`, with the configuration that the model was trained with."""
    content = read_checkpoint(Path(weights))
    try:
        config = Config.model_validate(content["config"])
    except ValidationError as error:
        raise ConfigError(
            f"{weights}: its recipe is not one of this version ({error.error_count()} problems)"
        ) from error
    model = build_model(config.model, len(content["names"]))
    try:
        model.load_state_dict(averaged_weights(content))
    except RuntimeError as error:
        raise ConfigError(f"{weights}: its weights do not fit its own recipe ({error})") from error
    model.names = list(content["names"])
    return model.eval().requires_grad_(False), config


def load_matching_weights(model: nn.Module, weights: Path) -> None:
    """Starts a model from other weights: entries of equal name and shape are taken, the rest is listed in the log.

    Raises:
        ConfigError: the file is no checkpoint, or less than half of the model is in it: it is of another model.
    """
    given = averaged_weights(read_checkpoint(weights))
    own = model.state_dict()
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
