"""From images to ranges: a calibrated model is one whose every quantiser knows its largest magnitude."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from yolov6_ignite.distributed import same_on_all_ranks
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization.insertion import configure_quantizers, quantizers, set_mode
from yolov6_ignite.quantization.layers import QuantConv2d, QuantConvTranspose2d
from yolov6_ignite.quantization.observers import Observation, new_observer
from yolov6_ignite.quantization.quantizer import TensorQuantizer
from yolov6_ignite.quantization.spec import QuantizationSpec

__all__ = ["Calibrator", "calibrate", "calibrate_weights", "check_calibrated", "check_trainable"]

logger = logging.getLogger(__name__)

SHOWN = 3  # names in a message
GET_CALIBRATED = (
    "quantisation-aware training goes on from calibrated ranges; write them with quant.mode=ptq "
    "train.weights=best_ckpt.pt, and give that file as quant.calibrated"
)


class Calibrator:
    """A calibration from its begin to its end, around forward passes that someone else makes.

    Weights get their largest magnitudes by channel; what flows is seen in eval mode by all ranks, and quantisers of
    one group get the largest of their ranges. Every rank makes the same calls, and ends with the same ranges.

    Args:
        model: with quantisers, not wrapped.
        spec: that the quantisers were inserted with, or one that differs in method, percentile, bits or target.

    Raises:
        ValueError: the model has no quantisers.
    """

    def __init__(self, model: nn.Module, spec: QuantizationSpec) -> None:
        self.model = model
        self.spec = spec
        self._activations = {name: q for name, q in quantizers(model) if q.kind != "weight"}
        if not self._activations:
            raise ValueError("the model has no quantisers; insert them first")
        self._images = 0
        self._training: list[tuple[nn.Module, bool]] = []
        self._before: list[tuple[TensorQuantizer, dict[str, Any]]] | None = None

    def begin(self) -> None:
        """Eval mode; from here on every quantiser looks at what passes it.

        Raises:
            RuntimeError: it has begun already.
        """
        if self._before is not None:
            raise RuntimeError("this calibration has begun already; finish or abort it first")
        self._images = 0
        self._training = [(module, module.training) for module in self.model.modules()]
        self._before = [(quantizer, _settings(quantizer)) for _, quantizer in quantizers(self.model)]
        self.model.eval()
        set_mode(self.model, "calibrate")
        for quantizer in self._activations.values():
            quantizer.observer = new_observer(self.spec)

    def count(self, images: int) -> None:
        """Tells how many images a forward pass, without gradients, has just shown to the model."""
        self._images += images

    def finish(self) -> None:
        """Gives every quantiser its range and turns all of them on; modes of modules are as before the begin.

        Raises:
            ConfigError: no rank counted an image, or the ranges cannot be used (:func:`check_calibrated`); everything
                is as before the begin.
            RuntimeError: it has not begun.
        """
        if self._before is None:
            raise RuntimeError("this calibration has not begun")
        observed = {name: q.observer.observation() for name, q in self._activations.items() if q.observer is not None}
        parts = [(self._images, observed)]
        if idist.get_world_size() > 1:
            parts = idist.all_gather(parts[0])  # type: ignore[assignment]
        with same_on_all_ranks():
            try:
                self._set_ranges(parts)
            except ConfigError:
                self.abort()
                raise
        self._end()
        set_mode(self.model, "quantize")
        dead = _without_range(self.model)
        if dead:
            logger.warning("calibration: %d maps are 0 on all images, and stay so: %s", len(dead), _some(dead))

    def abort(self) -> None:
        """Makes everything as before the begin; nothing where it has not begun, or has ended."""
        for quantizer, settings in self._before or ():
            with torch.no_grad():
                quantizer.amax.copy_(settings.pop("amax"))
                quantizer.negative.copy_(settings.pop("negative"))
            for name, value in settings.items():
                setattr(quantizer, name, value)
        self._end()

    def _end(self) -> None:
        for quantizer in self._activations.values():
            quantizer.observer = None
        for module, training in self._training:
            module.training = training
        self._training, self._before = [], None

    def _set_ranges(self, parts: Sequence[tuple[int, dict[str, Observation]]]) -> None:
        if sum(images for images, _ in parts) == 0:
            raise ConfigError("calibration: there are no images; give at least one batch of training images")
        configure_quantizers(self.model, self.spec)
        calibrate_weights(self.model)
        merged = {name: Observation.merged([part[name] for _, part in parts]) for name in self._activations}
        _set_activation_ranges(self._activations, merged, self.spec)
        check_calibrated(self.model)


def calibrate(model: nn.Module, batches: Iterable[Tensor], spec: QuantizationSpec) -> None:
    """Gives every quantiser its range by the method of `spec` and turns all of them on, as :class:`Calibrator`.

    Args:
        model: with quantisers, not wrapped.
        batches: images as the model takes them, on its device: typically some hundreds of the training images, as
            the validation sees them, without augmentation. Every rank gives its own.
        spec: that the quantisers were inserted with, or one that differs in method, percentile, bits or target.

    Raises:
        ConfigError: there are no images on any rank, or the ranges cannot be used (:func:`check_calibrated`); the
            model is as before.
        ValueError: the model has no quantisers.
    """
    calibrator = Calibrator(model, spec)
    calibrator.begin()
    try:
        with torch.no_grad():
            for images in batches:
                if len(images):
                    model(images)
                    calibrator.count(len(images))
        calibrator.finish()
    finally:
        calibrator.abort()


@torch.no_grad()
def calibrate_weights(model: nn.Module) -> None:
    """Sets the range of every quantised weight to its largest magnitudes, by output channel."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantConvTranspose2d)):
            quantizer, weight = layer.weight_quantizer, layer.weight.float()
            quantizer.amax.copy_(weight.abs().transpose(0, quantizer.axis).flatten(1).amax(1))


def check_calibrated(model: nn.Module) -> None:
    """Verifies that a model is calibrated; a channel of a weight, or a map, may have been 0 everywhere.

    Raises:
        ConfigError: a range is negative or not finite, or that of the first map is 0; names the first ones.
        ValueError: the model has no quantisers.
    """
    used = [(name, quantizer) for name, quantizer in quantizers(model) if quantizer.enabled]
    if not used:
        raise ValueError("the model has no quantisers; insert them first")
    wrong = [name for name, quantizer in used if not bool((quantizer.amax.isfinite() & (quantizer.amax >= 0)).all())]
    if wrong:
        raise ConfigError(f"calibration: {_some(wrong)}: values that are not finite; check the weights")
    first = next((name for name, quantizer in used if quantizer.kind != "weight"), None)
    if first in _without_range(model):
        raise ConfigError(f"calibration: {first}: no value other than 0 was seen; calibrate with real images")


def _without_range(model: nn.Module) -> list[str]:
    """Maps that were 0 everywhere: dead activations, which quantisation leaves at 0."""
    return [name for name, q in quantizers(model) if q.enabled and q.kind != "weight" and float(q.amax) == 0]


def check_trainable(model: nn.Module) -> None:
    """Verifies, on all ranks, that quantisation-aware training of a model can begin: it is calibrated and quantises.

    Raises:
        ConfigError: it is not; says how to get there.
    """
    with same_on_all_ranks():
        try:
            check_calibrated(model)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"quant.mode: qat: {error}; {GET_CALIBRATED}") from error
        idle = [name for name, quantizer in quantizers(model) if quantizer.mode != "quantize"]
        if idle:
            raise ConfigError(f"quant.mode: qat: {_some(idle)}: not in mode quantize; {GET_CALIBRATED}")


def _settings(quantizer: TensorQuantizer) -> dict[str, Any]:
    """What a calibration changes of a quantiser, as it is now."""
    names = ("mode", "enabled", "unsigned", "num_bits")
    tensors = {"amax": quantizer.amax.clone(), "negative": quantizer.negative.clone()}
    return {**tensors, **{name: getattr(quantizer, name) for name in names}}


@torch.no_grad()
def _set_activation_ranges(
    activations: dict[str, TensorQuantizer], observations: dict[str, Observation], spec: QuantizationSpec
) -> None:
    groups: dict[int, list[str]] = defaultdict(list)
    for name, quantizer in activations.items():
        groups[quantizer.group].append(name)
    for names in groups.values():
        ranges = [observations[name].amax(spec) for name in names]
        amax = max(ranges) if all(map(math.isfinite, ranges)) else math.inf
        for name in names:
            activations[name].amax.fill_(amax)
            # Its own: a ReLU is computed within its convolution only where the integers begin at 0.
            activations[name].negative.fill_(observations[name].negative)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
