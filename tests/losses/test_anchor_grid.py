"""Anchor points of a batch's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from yolov6_ignite.losses.anchor_grid import AnchorGrid


def test_several_anchors_a_cell_are_anchor_major_inside_a_level(make_output: Callable[..., Any]) -> None:
    grid = AnchorGrid((8, 16, 32))
    output = make_output(torch.zeros(1, 84, 1), torch.zeros(1, 84, 4), (64, 64))
    points, stride = grid(output)
    repeated, repeated_stride = grid(output, anchors_per_cell=3)
    first, second, third = (slice(0, 64), slice(64, 80), slice(80, 84))
    order = [level for level in (first, second, third) for _ in range(3)]
    assert torch.equal(repeated, torch.cat([points[level] for level in order]))
    assert torch.equal(repeated_stride, torch.cat([stride[level] for level in order]))


def test_made_again_only_for_another_size(make_output: Callable[..., Any]) -> None:
    grid = AnchorGrid((8, 16, 32))
    small = make_output(torch.zeros(1, 84, 1), torch.zeros(1, 84, 4), (64, 64))
    wide = make_output(torch.zeros(1, 126, 1), torch.zeros(1, 126, 4), (64, 96))
    first = grid(small)
    assert grid(small) is first
    assert len(grid(wide)[0]) == 126
    assert len(grid(small, anchors_per_cell=2)[0]) == 168
    torch.testing.assert_close(grid(small), first)
