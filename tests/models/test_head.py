"""The head."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.models.head import EffiDeHead


@pytest.mark.parametrize(("reg_max", "sides"), [(0, (16.0, 64.0)), (16, (128.0, 512.0))])
def test_fresh_head_predicts_equal_boxes_and_the_prior(reg_max: int, sides: tuple[float, float]) -> None:
    head = EffiDeHead((8, 8, 8), (8, 16, 32), 4, reg_max).eval()
    predictions = head([torch.randn(1, 8, 64 // stride, 64 // stride) for stride in (8, 16, 32)])
    torch.testing.assert_close(predictions[0, 0], torch.tensor([4.0, 4.0, sides[0], sides[0], 1.0, *[0.01] * 4]))
    torch.testing.assert_close(predictions[0, -1], torch.tensor([48.0, 48.0, sides[1], sides[1], 1.0, *[0.01] * 4]))


def test_projection_constants_are_frozen_and_complete() -> None:
    for reg_max in (0, 16):
        head = EffiDeHead((8,), (8,), 4, reg_max)
        assert head.proj.tolist() == list(range(17))
        assert head.proj_conv.weight.flatten().tolist() == list(range(17))
        assert not head.proj.requires_grad
        assert not head.proj_conv.weight.requires_grad


def test_predictions_keep_the_order_of_levels_rows_and_columns() -> None:
    head = EffiDeHead((2, 2), (8, 16), 1, 0)
    maps = [torch.rand(1, 2, 2, 3), torch.rand(1, 2, 1, 2)]
    output = head(maps)
    expected = torch.cat(
        [head.reg_preds[i](head.reg_convs[i](head.stems[i](x))).flatten(2) for i, x in enumerate(maps)], 2
    )
    torch.testing.assert_close(output.distances, expected.transpose(1, 2))
    for level, predictor in enumerate(head.cls_preds):
        predictor.bias.data.fill_(level)
    logits = head(maps).logits
    assert logits.flatten().tolist() == [0] * 6 + [1] * 2


def test_maps_of_the_caller_are_left_alone() -> None:
    maps = [torch.rand(1, 4, 2, 2)]
    before = [maps[0], maps[0].clone()]
    EffiDeHead((4,), (8,), 1, 0)(maps)
    assert maps[0] is before[0]
    assert torch.equal(*before)
