"""Padding of targets on the host."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.errors import DatasetError
from yolov6_ignite.losses.targets import pad_targets

CPU = torch.device("cpu")


def test_boxes_in_pixels_grouped_by_image() -> None:
    targets = torch.tensor(
        [
            [0, 1, 0.30, 0.40, 0.35, 0.50],
            [1, 0, 0.5, 0.5, 0.9, 0.9],
            [0, 2, 0.55, 0.50, 0.60, 0.45],
            [0, 0, 0.80, 0.20, 0.10, 0.12],
        ]
    )
    truth = pad_targets(targets, 3, 3, (128, 160), CPU)
    assert truth.labels.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert truth.valid.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    expected = torch.zeros(3, 3, 4)
    expected[0] = torch.tensor([[20, 19.2, 76, 83.2], [40, 35.2, 136, 92.8], [120, 17.92, 136, 33.28]])
    expected[1, 0] = torch.tensor([8, 6.4, 152, 121.6])
    torch.testing.assert_close(truth.boxes, expected)


def test_no_targets_give_one_padded_row() -> None:
    truth = pad_targets(torch.zeros(0, 6), 2, 3, (64, 64), CPU)
    assert truth.labels.shape == (2, 1)
    assert truth.boxes.shape == (2, 1, 4)
    assert not truth.valid.any()


def test_half_precision_targets() -> None:
    truth = pad_targets(torch.tensor([[0, 2, 0.5, 0.5, 0.25, 0.5]], dtype=torch.float16), 1, 3, (64, 128), CPU)
    assert truth.boxes.tolist() == [[[48, 16, 80, 48]]]
    assert truth.boxes.dtype == torch.float32


@pytest.mark.parametrize("label", [3, -1])
def test_unknown_class_is_an_error_of_the_data_set(label: int) -> None:
    with pytest.raises(DatasetError, match=f"class {label}, but the network has the classes 0 to 2"):
        pad_targets(torch.tensor([[0, label, 0.5, 0.5, 0.1, 0.1]]), 1, 3, (64, 64), CPU)


def test_image_outside_the_batch() -> None:
    with pytest.raises(ValueError, match="images 2 to 2: the batch has 0 to 1"):
        pad_targets(torch.tensor([[2, 0, 0.5, 0.5, 0.1, 0.1]]), 2, 3, (64, 64), CPU)


def test_targets_on_a_device_are_refused() -> None:
    with pytest.raises(ValueError, match="on the host"):
        pad_targets(torch.zeros(0, 6, device="meta"), 2, 3, (64, 64), CPU)
