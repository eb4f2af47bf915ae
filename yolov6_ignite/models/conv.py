"""Convolution units: convolution, batch norm and activation (specification, models 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from yolov6_ignite.models.deploy import Fusable, fold_batch_norm, fused_conv

__all__ = ["ConvBNReLU", "ConvBNSiLU", "ConvModule", "Transpose", "batch_norm"]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants that the whole family uses."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvModule(Fusable):
    """Convolution without bias, batch norm, optional activation; padding keeps the size at stride 1."""

    bn: nn.BatchNorm2d | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = batch_norm(out_channels)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return x if self.act is None else self.act(x)

    def fuse(self) -> None:
        if self.bn is not None:
            self.conv = fused_conv(self.conv, *fold_batch_norm(self.conv, self.bn))
            self.bn = None


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.block = ConvModule(in_channels, out_channels, kernel_size, stride, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ConvBNSiLU(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        # Not in place: SiLU's gradient needs its input, so autograd would copy it first.
        self.block = ConvModule(in_channels, out_channels, kernel_size, stride, nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Transpose(nn.Module):
    """Learned upsampling by two."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_transpose(x)
