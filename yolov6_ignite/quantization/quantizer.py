"""One quantiser: off, looking at values, or rounding them to the grid that integers would be on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from yolov6_ignite.quantization.observers import MaxObserver

__all__ = ["Grid", "Kind", "Mode", "TensorQuantizer"]

Mode = Literal["off", "calibrate", "quantize"]
Kind = Literal["weight", "input", "upsample", "activation"]

SMALLEST_AMAX = 2.0**-24  # of a channel that is always 0: its scale must not be


class Grid(NamedTuple):
    """The numbers `scale * (q - zero_point)` for whole `q` in `quant_min`..`quant_max`.

    `scale` (fp32) and `zero_point` (int32) are scalars, or (channels,) for the output channels of a weight.
    """

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int


class TensorQuantizer(nn.Module):
    """Rounds a tensor to a grid of `num_bits`, in fp32; the gradient passes inside the range and is 0 beyond.

    The state dict has the range alone; the rest is the business of who inserts and calibrates, and is plain Python
    state that copies with the model. Symmetric: signed grids have scale amax / 127 and zero point 0. Unsigned ones
    have amax / 255 and 0 where no value is negative, amax / 127 and 128 otherwise.

    Args:
        kind: `weight`, by output channel; the others are per tensor: what a layer reads (`input`), what learned
            upsampling gives (`upsample`), what other modules give (`activation`).
        channels: of a weight; None for the others.
        axis: dimension of a weight that has the channels.
        device: of the range.

    Attributes:
        amax: largest magnitude on the grid, fp32, scalar or (channels,); 0 until calibrated.
        negative: whether values below 0 were seen, scalar bool.
        mode: `off` passes everything on; `calibrate` too, and shows it to `observer`; `quantize` rounds.
        enabled: whether mode `quantize` rounds here: the target decides which quantisers it has.
        unsigned: whether the grid is one of unsigned integers.
        num_bits: of an integer.
        group: quantisers of one number share their range.
        axis: of the channels.
        observer: during calibration.
    """

    amax: Tensor
    negative: Tensor

    def __init__(
        self, kind: Kind, *, channels: int | None = None, axis: int = 0, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.mode: Mode = "off"
        self.enabled = True
        self.unsigned = False
        self.num_bits = 8
        self.group = -1
        self.axis = axis
        self.observer: MaxObserver | None = None
        shape = () if channels is None else (channels,)
        self.register_buffer("amax", torch.zeros(shape, dtype=torch.float32, device=device))
        self.register_buffer("negative", torch.zeros((), dtype=torch.bool, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "quantize":
            return self.fake_quantize(x) if self.enabled else x
        if self.mode == "calibrate" and self.observer is not None:
            self.observer.update(x)
        return x

    def grid(self) -> Grid:
        """The numbers that values are rounded to."""
        half = 1 << (self.num_bits - 1)
        amax = self.amax.float().clamp_min(SMALLEST_AMAX)
        if not self.unsigned:
            return Grid(amax / (half - 1), torch.zeros_like(amax, dtype=torch.int32), -half, half - 1)
        scale = torch.where(self.negative, amax / (half - 1), amax / (2 * half - 1))
        return Grid(scale, self.negative.to(torch.int32) * half, 0, 2 * half - 1)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """`x` rounded to :meth:`grid`, of the shape and type of `x`."""
        scale, zero_point, low, high = self.grid()
        values = x.float()
        if self.amax.dim() == 0:
            rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, low, high)
        else:
            # The grid has one number more below 0: without it, the folding of a negative batch norm is exact.
            bound = self.amax.float().reshape(-1, *[1] * (x.dim() - 1 - self.axis))
            values = values.clamp(-bound, bound)
            # Zero points of whole numbers would be looked at on the host, which waits for the device.
            rounded = torch.fake_quantize_per_channel_affine(values, scale, zero_point.float(), self.axis, low, high)
        return rounded.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.num_bits} bits, {self.mode}{'' if self.enabled else ', disabled'}"
