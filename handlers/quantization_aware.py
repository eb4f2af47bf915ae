"""What training of a quantised model needs beside the training of any other."""

from __future__ import annotations

from collections.abc import Callable

from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from yolov6_ignite.handlers.events import train_state

__all__ = ["QuantizationAwareTraining"]


class QuantizationAwareTraining:
    """Verifies that the model in training is calibrated and quantises, and fixes batch norm statistics after a while.

    Acts on ``STARTED`` and, where statistics are to be fixed, on ``EPOCH_STARTED``, also of an epoch that is resumed
    inside, on every rank: an evaluation of the model itself, without an average, puts batch norms back into train
    mode. Their affine parameters go on training. Ranges are buffers that nothing here changes. Keeps no state.

    Args:
        model: the quantised model in training; wrapped or not.
        check: refuses, by an error, a model whose training must not start.
        freeze_batch_norm_after: epochs after which batch norms keep their statistics, 0 for all; None: never.
    """

    def __init__(
        self, model: nn.Module, check: Callable[[nn.Module], None], *, freeze_batch_norm_after: int | None = None
    ) -> None:
        if freeze_batch_norm_after is not None and freeze_batch_norm_after < 0:
            raise ValueError(f"freeze_batch_norm_after should be at least 0, got {freeze_batch_norm_after}")
        self.model = model
        self.check = check
        self.freeze_batch_norm_after = freeze_batch_norm_after

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._check)
        if self.freeze_batch_norm_after is not None:
            engine.add_event_handler(Events.EPOCH_STARTED, self._freeze_batch_norms)

    def _check(self, engine: Engine) -> None:
        self.check(self.model)

    def _freeze_batch_norms(self, engine: Engine) -> None:
        assert self.freeze_batch_norm_after is not None
        if train_state(engine).epoch > self.freeze_batch_norm_after:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
