"""Boxes of the model, of the image on disk and of COCO records."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.metrics import cxcywh_to_xyxy, rescale_to_native, xyxy_to_coco


def test_rescaling_takes_the_padding_off_and_divides_each_axis_by_its_gain() -> None:
    letterbox = torch.tensor([48.0, 100.0, 2.0, 1.5, 33.0, 2.0])  # height, width, gain h, gain w, top, left
    boxes = torch.tensor([[17.0, 43.0, 62.0, 93.0], [-9.0, 0.0, 900.0, 900.0], [0.0, 0.0, 1.0, 1.0]])
    expected = [[10.0, 5.0, 40.0, 30.0], [0.0, 0.0, 100.0, 48.0], [0.0, 0.0, 0.0, 0.0]]
    before = boxes.clone()
    assert rescale_to_native(boxes, letterbox).tolist() == expected
    assert torch.equal(boxes, before)


def test_the_shrunk_validation_image_of_the_specification() -> None:
    # 96 x 128 at 256 with 4 px shrunk: padding left 2, top 33, gains 1.96875 (specification, training 22.6)
    letterbox = torch.tensor([96.0, 128.0, 1.96875, 1.96875, 33.0, 2.0])
    corners = torch.tensor([[2.0, 33.0, 2 + 128 * 1.96875, 33 + 96 * 1.96875]])
    assert rescale_to_native(corners, letterbox).tolist() == [[0.0, 0.0, 128.0, 96.0]]


def test_no_boxes() -> None:
    assert rescale_to_native(torch.zeros(0, 4), torch.ones(6)).shape == (0, 4)


@given(st.lists(st.floats(0, 1000, width=32), min_size=4, max_size=4))
def test_conversions_agree(values: list[float]) -> None:
    box = torch.tensor([values])
    corners = cxcywh_to_xyxy(box)
    coco = xyxy_to_coco(corners)
    assert coco[0, :2].tolist() == pytest.approx(corners[0, :2].tolist(), abs=1e-3)
    assert coco[0, 2:].tolist() == pytest.approx(values[2:], abs=1e-3)
