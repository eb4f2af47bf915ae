"""The neck: mixes the levels of the backbone top-down and bottom-up (specification, models 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov6_ignite.models.blocks import BiFusion, Stage
from yolov6_ignite.models.conv import ConvBNReLU

__all__ = ["RepBiFPANNeck"]


class RepBiFPANNeck(nn.Module):
    """Bi-directional fusion top-down, path aggregation bottom-up. Its 1x1 and strided units always use ReLU.

    With n levels there are n - 1 steps down and n - 1 steps up; layer names count as the published weights do.

    Args:
        in_channels: channels of the n + 1 backbone maps, the finest first; one finer than the n output levels.
        reduce_channels: channels after the reduction of each step down, from the coarsest level.
        down_channels: channels after the halving of each step up, from the finest level.
        out_channels: channels of the stage of each step up.
        repeats: blocks in the 2 (n - 1) stages, in the order of the steps.
        stage: what every step ends with.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        reduce_channels: Sequence[int],
        down_channels: Sequence[int],
        out_channels: Sequence[int],
        repeats: Sequence[int],
        stage: Stage,
    ) -> None:
        super().__init__()
        self.steps = steps = len(reduce_channels)
        levels = steps + 1
        current = in_channels[-1]
        for step, reduced in enumerate(reduce_channels):
            middle, fine = in_channels[-2 - step], in_channels[-3 - step]
            self.add_module(f"reduce_layer{step}", ConvBNReLU(current, reduced, 1))
            self.add_module(f"Bifusion{step}", BiFusion((middle, fine), reduced))
            self.add_module(f"Rep_p{levels + 1 - step}", stage(reduced, reduced, repeats[step]))
            current = reduced
        for step, (down, out) in enumerate(zip(down_channels, out_channels, strict=True)):
            skip = reduce_channels[-1 - step]
            self.add_module(f"downsample{2 - step}", ConvBNReLU(current, down, 3, stride=2))
            self.add_module(f"Rep_n{levels + step}", stage(skip + down, out, repeats[steps + step]))
            current = out

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps the backbone's n + 1 maps to n maps of the n coarser sizes, the finest first."""
        levels = self.steps + 1
        x = maps[-1]
        reduced = []
        for step in range(self.steps):
            coarse = getattr(self, f"reduce_layer{step}")(x)
            reduced.append(coarse)
            x = getattr(self, f"Bifusion{step}")(coarse, maps[-2 - step], maps[-3 - step])
            x = getattr(self, f"Rep_p{levels + 1 - step}")(x)
        outputs = [x]
        for step in range(self.steps):
            x = getattr(self, f"downsample{2 - step}")(x)
            x = getattr(self, f"Rep_n{levels + step}")(torch.cat((x, reduced[-1 - step]), dim=1))
            outputs.append(x)
        return outputs
