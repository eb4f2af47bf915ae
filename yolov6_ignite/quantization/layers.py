"""Layers that read, and weigh with, quantised numbers. A layer becomes one by changing its class: nothing is copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.quantization.quantizer import TensorQuantizer

__all__ = [
    "QUANTIZED",
    "QuantConv2d",
    "QuantConvTranspose2d",
    "QuantMaxPool2d",
    "add_output_quantizer",
    "quantize_layer",
]

OUTPUT = "output_quantizer"


class QuantConv2d(nn.Conv2d):
    """A convolution of a quantised map with a kernel that is quantised by output channel."""

    input_quantizer: TensorQuantizer
    weight_quantizer: TensorQuantizer

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


class QuantConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of a quantised map with a kernel that is quantised by output channel.

    That is the second dimension of the kernel. The reference's toolkit takes the first (specification, models 14.2),
    the input channel: then every product of a sum has another scale, and no runtime can add them up in integers.
    """

    input_quantizer: TensorQuantizer
    weight_quantizer: TensorQuantizer

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        if output_size is not None:
            raise ValueError("a quantised transposed convolution takes its output_padding, not an output size")
        return F.conv_transpose2d(
            self.input_quantizer(x),
            self.weight_quantizer(self.weight),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


class QuantMaxPool2d(nn.MaxPool2d):
    """The maximum over windows of a quantised map."""

    input_quantizer: TensorQuantizer

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.input_quantizer(x))


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.MaxPool2d: QuantMaxPool2d,
}
"""The quantised form of every layer that has one."""


def quantize_layer(layer: nn.Module, device: torch.device) -> None:
    """Turns a layer of a type in :data:`QUANTIZED` into its quantised form, with the same parameters and settings."""
    layer.__class__ = QUANTIZED[type(layer)]
    weight = getattr(layer, "weight", None)
    layer.input_quantizer = TensorQuantizer("input", device=device)
    if weight is not None:
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        layer.weight_quantizer = TensorQuantizer("weight", channels=weight.shape[axis], axis=axis, device=device)


def add_output_quantizer(module: nn.Module, quantizer: TensorQuantizer) -> None:
    """Quantises what a module of any class gives, if it is one tensor; the quantiser is its `output_quantizer`."""
    module.add_module(OUTPUT, quantizer)
    module.register_forward_hook(_quantize_output)


def _quantize_output(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    quantizer: TensorQuantizer = getattr(module, OUTPUT)
    return quantizer(output)
