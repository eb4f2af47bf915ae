"""The form of a quantised model that is exported: its batch norms folded, its integers as they were."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from yolov6_ignite.models.conv import ConvModule
from yolov6_ignite.models.deploy import deployed, fold_batch_norm, fused_conv, scale_and_shift
from yolov6_ignite.models.lite import DPBlock
from yolov6_ignite.quantization.calibration import check_calibrated
from yolov6_ignite.quantization.layers import QuantConv2d, QuantConvTranspose2d, add_output_quantizer

__all__ = ["fold_batch_norms"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

PAIRS: dict[type[nn.Module], list[tuple[str, str]]] = {
    ConvModule: [("conv", "bn")],
    DPBlock: [("conv_dw_1", "bn_1"), ("conv_pw_1", "bn_2")],
}
"""Where blocks have a convolution and the batch norm behind it."""


def fold_batch_norms(model: ModuleT) -> ModuleT:
    """A copy of a calibrated model in eval mode, without batch norms, that gives the same.

    With g = gamma / sigma, weights are multiplied by g and their ranges by |g|, which leaves the integers as they
    are, or negates them. Weights are put onto their grid first, so that no rounding of the product can move one.

    Raises:
        ConfigError: the model is not calibrated.
    """
    check_calibrated(model)
    folded = copy.deepcopy(model)
    for module in folded.modules():
        if isinstance(module, (QuantConv2d, QuantConvTranspose2d)):
            module.weight.data = module.weight_quantizer.fake_quantize(module.weight.data)
    for module in folded.modules():
        for kind, pairs in PAIRS.items():
            if isinstance(module, kind):
                for conv, bn in pairs:
                    _fold(module, conv, bn)
    return deployed(folded)  # without what only training uses


@torch.no_grad()
def _fold(block: nn.Module, conv_name: str, bn_name: str) -> None:
    conv, bn = getattr(block, conv_name), getattr(block, bn_name)
    if bn is None:
        return
    setattr(block, bn_name, None)
    if not isinstance(conv, QuantConv2d):
        setattr(block, conv_name, fused_conv(conv, *fold_batch_norm(conv, bn)))
        return
    scale, shift = scale_and_shift(bn)
    weight, amax = conv.weight, conv.weight_quantizer.amax
    bias = shift if conv.bias is None else shift + scale * conv.bias.to(scale)
    conv.bias = nn.Parameter(bias.to(weight))
    conv.weight = nn.Parameter((weight.to(scale) * scale.reshape(-1, 1, 1, 1)).to(weight))
    amax.mul_(scale.abs().to(amax))
    if hasattr(bn, "output_quantizer"):
        add_output_quantizer(conv, bn.output_quantizer)
