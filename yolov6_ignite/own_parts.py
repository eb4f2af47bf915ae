"""Parts of a run that a user brings along instead of having them built from the configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError

__all__ = ["OwnParts"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnParts:
    """What takes the place of configured parts; None: the configured one.

    Attributes:
        model: in train mode it returns what the loss takes, in eval mode (batch, anchors, 5 + classes): centre x, y,
            width, height in pixels, 1, class scores.
        loss: called as what :func:`yolov6_ignite.build_loss` returns.
        train_loader: a sized iterable of this rank's :class:`yolov6_ignite.data.Batch` es.
        val_loader: an iterable of this rank's batches with ``letterbox``, whose ``indices`` are 0 to n - 1.
    """

    model: nn.Module | None = None
    loss: Any = None
    train_loader: Any = None
    val_loader: Any = None

    def check(self, config: Config) -> None:
        """Refuses what cannot work together and says what has no effect.

        Raises:
            ConfigError: a key needs the part that is replaced.
            TypeError: a part lacks what a run needs of it.
        """
        if self.model is not None and not isinstance(self.model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got a {type(self.model).__name__}")
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"loss: expected something to call, got a {type(self.loss).__name__}")
        if self.train_loader is not None and not hasattr(self.train_loader, "__len__"):
            raise TypeError("train_loader: has no length, which the learning rate schedule needs")
        needs_model = {
            "train.weights": config.train.weights is not None,
            "train.fuse_ab": config.train.fuse_ab,
            "model.training_mode: repopt": config.model.training_mode == "repopt",
            "distill.teacher": config.distill.teacher is not None,
            "quant.mode": config.quant.mode != "none",
            "eval.loss": config.eval.loss and not hasattr(self.model, "detect_with_output"),
            "data.batch_size: auto": config.data.batch_size == "auto",
        }
        needs_data = {
            "data.batch_size: auto": config.data.batch_size == "auto",
            "data.class_weights": config.data.class_weights != "none",
            "data.repeat_factor": bool(config.data.repeat_factor),
        }
        for part, keys in (("model", needs_model), ("train_loader", needs_data)):
            if getattr(self, part) is not None and any(keys.values()):
                key = next(key for key, is_set in keys.items() if is_set)
                raise ConfigError(f"{key}: needs the configured {part}, and build_training was given another; unset it")
        if self.train_loader is not None:
            logger.info(
                "train_loader is your own: keys of augment and data but data.batch_size have no effect on training; "
                "data.batch_size should say how many images it gives at a time, all devices together"
            )
