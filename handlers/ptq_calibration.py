"""Calibrating a quantised model, as it is done on an engine that shows it images."""

from __future__ import annotations

from typing import Protocol

from ignite.engine import Engine, Events

__all__ = ["Calibration", "PTQCalibration"]


class Calibration(Protocol):
    """What :class:`yolov6_ignite.quantization.Calibrator` is."""

    def begin(self) -> None:
        """From here on, quantisers look at what passes them."""

    def count(self, images: int) -> None:
        """Tells how many images a forward pass had."""

    def finish(self) -> None:
        """Turns what was seen on all ranks into ranges; from here on, quantisers round."""


class PTQCalibration:
    """Calibrates the model whose forward passes are the engine's step.

    Acts on ``STARTED`` (eval mode, observers on), ``ITERATION_COMPLETED`` (the step's output is its number of images)
    and ``COMPLETED`` (ranges from what all ranks saw: one gather), on every rank. Observers of histograms read the
    device in every iteration, and keep nothing but their counts. Who runs the engine aborts the calibration when it
    fails. Keeps no state.

    Args:
        calibration: of the model.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, engine: Engine) -> None:
        self.calibration.begin()

    def _count(self, engine: Engine) -> None:
        self.calibration.count(engine.state.output)  # type: ignore[arg-type]

    def _finish(self, engine: Engine) -> None:
        self.calibration.finish()
