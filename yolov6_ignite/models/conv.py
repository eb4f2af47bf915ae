"""Convolution units: convolution, batch norm and activation (specification, models 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from yolov6_ignite.models.deploy import Fusable, fold_batch_norm, fused_conv

__all__ = ["ConvBN", "ConvBNHS", "ConvBNReLU", "ConvBNSiLU", "ConvModule", "Transpose", "batch_norm"]


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
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
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


class ConvBN(nn.Module):
    """Convolution and batch norm, below the name that the published weights have for it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.block = ConvModule(in_channels, out_channels, kernel_size, stride, self.activation(), groups)

    @staticmethod
    def activation() -> nn.Module | None:
        """What follows the batch norm."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ConvBNReLU(ConvBN):
    """Convolution, batch norm, ReLU."""

    @staticmethod
    def activation() -> nn.Module:
        return nn.ReLU(inplace=True)


class ConvBNSiLU(ConvBN):
    """Convolution, batch norm, SiLU."""

    @staticmethod
    def activation() -> nn.Module:
        return nn.SiLU()  # not in place: its gradient needs its input, so autograd would copy it first


class ConvBNHS(ConvBN):
    """Convolution, batch norm, hard swish."""

    @staticmethod
    def activation() -> nn.Module:
        return nn.Hardswish()  # not in place, as SiLU


class Transpose(nn.Module):
    """Learned upsampling by two."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_transpose(x)
