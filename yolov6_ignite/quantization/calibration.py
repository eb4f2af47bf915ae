"""From images to ranges: a calibrated model is one whose every quantiser knows its largest magnitude."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization.insertion import configure_quantizers, quantizers, set_mode
from yolov6_ignite.quantization.layers import QuantConv2d, QuantConvTranspose2d
from yolov6_ignite.quantization.observers import Observation, new_observer
from yolov6_ignite.quantization.quantizer import TensorQuantizer
from yolov6_ignite.quantization.spec import QuantizationSpec

__all__ = ["calibrate", "calibrate_weights", "check_calibrated"]

SHOWN = 3  # names in a message


def calibrate(model: nn.Module, batches: Iterable[Tensor], spec: QuantizationSpec) -> None:
    """Gives every quantiser its range by the method of `spec` and turns all of them on.

    Weights get their largest magnitudes by channel; what flows is seen in eval mode over all batches of all ranks,
    and quantisers of one group get the largest of their ranges. Every rank must call this, and ends with the same
    ranges. Modes of modules are as before afterwards; quantisers that were not calibrated are as before too.

    Args:
        model: with quantisers, not wrapped.
        batches: images as the model takes them, on its device: typically some hundreds of the training images, as
            the validation sees them, without augmentation.
        spec: that the quantisers were inserted with, or one that differs in method, percentile, bits or target.

    Raises:
        ConfigError: there are no images on any rank, or a range is 0 or not finite.
        ValueError: the model has no quantisers.
    """
    activations = {name: quantizer for name, quantizer in quantizers(model) if quantizer.kind != "weight"}
    if not activations:
        raise ValueError("the model has no quantisers; insert them first")
    seen, observations = _observe(model, activations, batches, spec)
    parts = [(seen, observations)]
    if idist.get_world_size() > 1:
        parts = idist.all_gather(parts[0])  # type: ignore[assignment]
    if sum(count for count, _ in parts) == 0:
        raise ConfigError("calibration: there are no images; give at least one batch of training images")
    configure_quantizers(model, spec)
    calibrate_weights(model)
    merged = {name: Observation.merged([part[name] for _, part in parts]) for name in activations}
    _set_ranges(activations, merged, spec)
    check_calibrated(model)
    set_mode(model, "quantize")


@torch.no_grad()
def calibrate_weights(model: nn.Module) -> None:
    """Sets the range of every quantised weight to its largest magnitudes, by channel of the first dimension."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantConvTranspose2d)):
            layer.weight_quantizer.amax.copy_(layer.weight.float().abs().amax(dim=(1, 2, 3)))


def check_calibrated(model: nn.Module) -> None:
    """Verifies that every quantiser that counts has a range; a weight may have channels that are 0.

    Raises:
        ConfigError: the range of a quantiser is 0 or not finite; names the first ones.
        ValueError: the model has no quantisers.
    """
    used = [(name, quantizer) for name, quantizer in quantizers(model) if quantizer.enabled]
    if not used:
        raise ValueError("the model has no quantisers; insert them first")
    infinite = [name for name, quantizer in used if not bool(quantizer.amax.isfinite().all())]
    if infinite:
        raise ConfigError(f"calibration: {_some(infinite)}: values that are not finite; check the weights")
    empty = [name for name, quantizer in used if quantizer.kind != "weight" and float(quantizer.amax) <= 0]
    if empty:
        raise ConfigError(
            f"calibration: {_some(empty)}: no value other than 0 was seen; calibrate with real images, or skip the "
            "layer if its input is always 0"
        )


def _observe(
    model: nn.Module, activations: dict[str, TensorQuantizer], batches: Iterable[Tensor], spec: QuantizationSpec
) -> tuple[int, dict[str, Observation]]:
    """The number of images of this rank, and what every quantiser saw of them."""
    modules = [(module, module.training) for module in model.modules()]
    before = [(quantizer, quantizer.mode) for _, quantizer in quantizers(model)]
    seen = 0
    try:
        model.eval()
        set_mode(model, "calibrate")
        for quantizer in activations.values():
            quantizer.observer = new_observer(spec)
        with torch.no_grad():
            for images in batches:
                if len(images):
                    model(images)
                    seen += len(images)
        observed = {
            name: quantizer.observer.observation()
            for name, quantizer in activations.items()
            if quantizer.observer is not None
        }
    finally:
        for quantizer in activations.values():
            quantizer.observer = None
        for quantizer, mode in before:
            quantizer.mode = mode
        for module, training in modules:
            module.training = training
    return seen, observed


@torch.no_grad()
def _set_ranges(
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
