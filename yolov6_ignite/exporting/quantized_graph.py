"""A calibrated model with its quantisers as the nodes that runtimes know: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from yolov6_ignite.models import Detector
from yolov6_ignite.quantization import QuantizationSpec, TensorQuantizer, configure_quantizers, fold_batch_norms
from yolov6_ignite.quantization.layers import QuantConv2d, QuantConvTranspose2d
from yolov6_ignite.quantization.quantizer import SMALLEST_AMAX

__all__ = ["QuantizeDequantize", "quantized_for", "with_exported_quantizers"]

MOST_BIAS = 2.0**30  # of the largest integer of 32 bits, half: products are added to it
SMALLEST_HALF = 2.0**-24  # above 0; a scale of 0 would give numbers that are not finite


class QuantizeDequantize(nn.Module):
    """A quantiser of 8 bits in an exported graph: two nodes, whose scale and zero point are constants.

    It exists while exporting only; what it computes in torch is its input.

    Args:
        quantizer: calibrated.
        half: the graph is one in half precision.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: TensorQuantizer, *, half: bool) -> None:
        super().__init__()
        grid = quantizer.grid()
        self.attributes: dict[str, Any] = {"axis": quantizer.axis} if grid.scale.dim() else {}
        self.register_buffer("scale", grid.scale.clamp_min(SMALLEST_HALF) if half else grid.scale.clone())
        self.register_buffer("zero_point", grid.zero_point.to(torch.uint8 if quantizer.unsigned else torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        grid = (self.scale, self.zero_point)
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, *grid), self.attributes, dtype=self.zero_point.dtype, shape=x.shape
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, *grid), self.attributes, dtype=x.dtype, shape=x.shape
        )


def quantized_for(model: Detector, spec: QuantizationSpec) -> Detector:
    """A copy of a calibrated model that computes, still in torch, as the target of `spec` does; without batch norms.

    Raises:
        ConfigError: the model is not calibrated.
    """
    model = copy.deepcopy(model)
    configure_quantizers(model, spec)
    model = fold_batch_norms(model)
    _fit_biases(model)
    return model


def _fit_biases(model: Detector) -> None:
    """Gives channels whose weights are next to nothing beside their bias a coarser grid.

    Runtimes round a bias to an integer of 32 bits, in units of the input's scale times the weight's. What such a
    channel gives is its bias, whatever its weights are rounded to.
    """
    for layer in model.modules():
        if not isinstance(layer, (QuantConv2d, QuantConvTranspose2d)) or layer.bias is None:
            continue
        unit = layer.input_quantizer.grid().scale * MOST_BIAS
        weights = layer.weight_quantizer
        per_scale = weights.amax.clamp_min(SMALLEST_AMAX) / weights.grid().scale
        weights.amax.copy_(torch.maximum(weights.amax, layer.bias.abs().float() / unit * per_scale))


def with_exported_quantizers(model: Detector, *, half: bool = False) -> Detector:
    """A copy of what :func:`quantized_for` gave, to be exported: its quantisers became nodes, or nothing if unused."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TensorQuantizer):
                used = child.enabled and child.mode == "quantize"
                setattr(module, name, QuantizeDequantize(child, half=half) if used else nn.Identity())
    return model
