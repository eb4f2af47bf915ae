"""Distribution focal loss against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from yolov6_ignite.losses.dfl import distribution_focal_loss


def test_is_cross_entropy_of_the_two_nearest_bins() -> None:
    generator = torch.Generator().manual_seed(1)
    distribution = torch.randn(5, 3, 4 * 17, generator=generator)
    distances = torch.rand(5, 3, 4, generator=generator) * 15.99
    got = distribution_focal_loss(distribution, distances)
    for i in range(5):
        for j in range(3):
            sides = []
            for side in range(4):
                log_p = torch.log_softmax(distribution[i, j, 17 * side : 17 * side + 17].double(), 0)
                t = float(distances[i, j, side])
                left = math.floor(t)
                sides.append(-(log_p[left] * (left + 1 - t) + log_p[left + 1] * (t - left)))
            assert got[i, j] == pytest.approx(float(sum(sides) / 4), rel=1e-5)


def test_indifferent_network_pays_the_entropy() -> None:
    loss = distribution_focal_loss(torch.zeros(2, 68), torch.tensor([[0.0, 3.25, 7.5, 15.99], [1, 2, 3, 4]]))
    torch.testing.assert_close(loss, torch.full((2,), math.log(17)))


def test_last_bin_is_reached() -> None:
    logits = torch.zeros(1, 4, 17)
    logits[..., 16] = 50
    loss = distribution_focal_loss(logits.flatten(1), torch.full((1, 4), 15.99))
    assert loss.item() == pytest.approx(0.01 * 50, rel=1e-3)
