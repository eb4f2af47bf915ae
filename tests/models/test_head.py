"""The head: what it predicts, and the branches that training modes add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.models.conv import ConvBNSiLU
from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.head import EffiDeHead

MakeHead = Callable[..., EffiDeHead]

ANCHORS = [
    [(10, 13), (19, 19), (33, 23)],
    [(30, 61), (59, 59), (59, 119)],
    [(116, 90), (185, 185), (373, 326)],
]


@pytest.fixture
def make_head() -> MakeHead:
    """A head of the usual units."""

    def make(
        channels: tuple[int, ...], strides: tuple[int, ...], classes: int, reg_max: int, **more: Any
    ) -> EffiDeHead:
        return EffiDeHead(
            channels,
            strides,
            classes,
            reg_max,
            stem=lambda c: ConvBNSiLU(c, c, 1),
            conv=lambda c: ConvBNSiLU(c, c, 3),
            **more,
        )

    return make


def with_weights(head: EffiDeHead) -> EffiDeHead:
    """Fresh predictors have zero weights."""
    for name, module in head.named_modules():
        if "_preds" in name and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return head


@pytest.mark.parametrize(("reg_max", "sides"), [(0, (16.0, 64.0)), (16, (128.0, 512.0))])
def test_fresh_head_predicts_equal_boxes_and_the_prior(
    reg_max: int, sides: tuple[float, float], make_head: MakeHead
) -> None:
    head = make_head((8, 8, 8), (8, 16, 32), 4, reg_max).eval()
    predictions = head([torch.randn(1, 8, 64 // stride, 64 // stride) for stride in (8, 16, 32)])
    torch.testing.assert_close(predictions[0, 0], torch.tensor([4.0, 4.0, sides[0], sides[0], 1.0, *[0.01] * 4]))
    torch.testing.assert_close(predictions[0, -1], torch.tensor([48.0, 48.0, sides[1], sides[1], 1.0, *[0.01] * 4]))


def test_projection_constants_are_frozen_and_complete(make_head: MakeHead) -> None:
    for reg_max in (0, 16):
        head = make_head((8,), (8,), 4, reg_max)
        assert head.proj.tolist() == list(range(17))
        assert head.proj_conv.weight.flatten().tolist() == list(range(17))
        assert not head.proj.requires_grad
        assert not head.proj_conv.weight.requires_grad
    assert not any("proj" in key for key in make_head((8,), (8,), 4, 0, projection=False).state_dict())


def test_predictions_keep_the_order_of_levels_rows_and_columns(make_head: MakeHead) -> None:
    head = make_head((2, 2), (8, 16), 1, 0)
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


def test_maps_of_the_caller_are_left_alone(make_head: MakeHead) -> None:
    maps = [torch.rand(1, 4, 2, 2)]
    before = [maps[0], maps[0].clone()]
    make_head((4,), (8,), 1, 0)(maps)
    assert maps[0] is before[0]
    assert torch.equal(*before)


def test_distribution_is_side_major(make_head: MakeHead) -> None:
    head = make_head((2,), (8,), 1, 16).eval()
    for side, expected in enumerate((3, 5, 7, 11)):  # left, top, right, bottom in strides
        bias = head.reg_preds[0].bias.data.reshape(4, 17)
        bias[side] = -1e4
        bias[side, expected] = 0.0
    prediction = head([torch.rand(1, 2, 1, 1)])[0, 0, :4]
    torch.testing.assert_close(prediction, torch.tensor([4 + 8 * 2.0, 4 + 8 * 3.0, 8 * 10.0, 8 * 16.0]))


@pytest.fixture
def anchor_aided(make_head: MakeHead) -> EffiDeHead:
    return with_weights(make_head((4, 6, 8), (8, 16, 32), 5, 0, anchors=ANCHORS))


@pytest.fixture
def maps() -> list[Tensor]:
    return [torch.rand(2, 4, 4, 6), torch.rand(2, 6, 2, 3), torch.rand(2, 8, 1, 2)]


def test_anchors_are_kept_in_strides_and_out_of_the_weights(anchor_aided: EffiDeHead) -> None:
    expected = [
        [[1.25, 1.625], [2.375, 2.375], [4.125, 2.875]],
        [[1.875, 3.8125], [3.6875, 3.6875], [3.6875, 7.4375]],
        [[3.625, 2.8125], [5.78125, 5.78125], [11.65625, 10.1875]],
    ]
    assert anchor_aided.anchors.tolist() == expected
    assert "anchors" not in anchor_aided.state_dict()


def test_anchor_aided_predictions_are_anchor_major(anchor_aided: EffiDeHead, maps: list[Tensor]) -> None:
    """Every number where the specification (models 6.5) puts it, one at a time."""
    anchor_aided.eval()  # fixed batch norms: the features can be computed again
    stems = [stem(x) for stem, x in zip(anchor_aided.stems, maps, strict=True)]
    class_maps = [p(c(x)) for p, c, x in zip(anchor_aided.cls_preds_ab, anchor_aided.cls_convs, stems, strict=True)]
    box_maps = [p(c(x)) for p, c, x in zip(anchor_aided.reg_preds_ab, anchor_aided.reg_convs, stems, strict=True)]
    anchor_aided.training = True
    output = anchor_aided(maps)
    assert output.anchor_logits.shape == (2, 3 * 32, 5)
    assert output.anchor_boxes.shape == (2, 3 * 32, 4)
    row = 0
    for level, stride in enumerate((8, 16, 32)):
        for anchor in range(3):
            size = torch.tensor(ANCHORS[level][anchor]) / stride
            for y in range(maps[level].shape[2]):
                for x in range(maps[level].shape[3]):
                    logits = class_maps[level][:, 5 * anchor : 5 * anchor + 5, y, x]
                    torch.testing.assert_close(output.anchor_logits[:, row], logits)
                    box = box_maps[level][:, 4 * anchor : 4 * anchor + 4, y, x]
                    torch.testing.assert_close(output.anchor_boxes[:, row, :2], box[:, :2])
                    torch.testing.assert_close(
                        output.anchor_boxes[:, row, 2:], (2 / (1 + torch.exp(-box[:, 2:]))) ** 2 * size
                    )
                    row += 1
    assert row == 3 * 32


def test_anchor_aided_branch_is_for_training_only(
    anchor_aided: EffiDeHead, maps: list[Tensor], make_head: MakeHead
) -> None:
    plain = make_head((4, 6, 8), (8, 16, 32), 5, 0)
    plain.load_state_dict({k: v for k, v in anchor_aided.state_dict().items() if not k.split(".")[0].endswith("_ab")})
    expected = plain.eval()(maps)
    assert torch.equal(anchor_aided.eval()(maps), expected)

    calls: list[str] = []
    for predictor in (*anchor_aided.cls_preds_ab, *anchor_aided.reg_preds_ab):
        predictor.register_forward_hook(lambda *_: calls.append("computed"))
    anchor_aided(maps)
    assert not calls

    fused = deployed(anchor_aided)
    assert not any("_ab" in key for key in fused.state_dict())
    torch.testing.assert_close(fused(maps), expected, rtol=1e-5, atol=1e-5)
    output = fused.train()(maps)
    assert (output.anchor_logits, output.anchor_boxes) == (None, None)


def test_anchors_follow_the_weights_to_another_type(anchor_aided: EffiDeHead, maps: list[Tensor]) -> None:
    output = anchor_aided.double()([x.double() for x in maps])
    assert output.anchor_boxes.dtype == torch.float64
    assert anchor_aided.anchors.dtype == torch.float64


def test_a_level_may_have_any_number_of_anchors(make_head: MakeHead, maps: list[Tensor]) -> None:
    head = make_head((4, 6, 8), (8, 16, 32), 5, 0, anchors=[level[:1] for level in ANCHORS])
    assert head(maps).anchor_boxes.shape == (2, 32, 4)


def test_distances_beside_the_distribution(make_head: MakeHead, maps: list[Tensor]) -> None:
    head = with_weights(make_head((4, 6, 8), (8, 16, 32), 5, 16, distances_beside=True))
    output = head(maps)
    assert output.distances.shape == (2, 32, 4 * 17)
    assert output.ltrb.shape == (2, 32, 4)
    direct = [p(c(s(x))) for p, c, s, x in zip(head.reg_preds, head.reg_convs, head.stems, maps, strict=True)]
    torch.testing.assert_close(output.ltrb, torch.cat([x.flatten(2).transpose(1, 2) for x in direct], dim=1))


def test_only_direct_distances_are_used_outside_training(make_head: MakeHead, maps: list[Tensor]) -> None:
    head = with_weights(make_head((4, 6, 8), (8, 16, 32), 5, 16, distances_beside=True)).eval()
    direct = make_head((4, 6, 8), (8, 16, 32), 5, 0).eval()
    direct.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("reg_preds_dist")})
    expected = direct(maps)
    assert torch.equal(head(maps), expected)
    for predictor in head.reg_preds_dist:
        nn.init.constant_(predictor.weight, torch.nan)
    assert torch.equal(head(maps), expected)
    fused = deployed(head)
    assert not any("_dist" in key for key in fused.state_dict())
    torch.testing.assert_close(fused(maps), expected, rtol=1e-5, atol=1e-5)
