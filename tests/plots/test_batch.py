"""Training batches as one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov6_ignite.plots import class_colour, draw_batch

NAMES = ["RBC", "WBC"]


def batch(count: int, height: int = 480, width: int = 640) -> Tensor:
    return torch.arange(10, 10 + count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


def paths(count: int) -> list[str]:
    return [f"images/{i}.jpg" for i in range(count)]


def has_colour(drawn: np.ndarray, index: int) -> np.ndarray:
    return (drawn == class_colour(index)).all(axis=2)


@pytest.mark.parametrize(("count", "cells"), [(1, 1), (2, 2), (4, 2), (5, 3), (16, 4), (17, 4)])
def test_the_grid_is_square_and_limited(count: int, cells: int):
    drawn = draw_batch(batch(count), torch.zeros(0, 6), paths(count), NAMES)
    scale = min(1.0, 1920 / cells / 640)
    assert drawn.shape == (cells * int(480 * scale), cells * int(640 * scale), 3)
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("max_side_px", [333, 1000, 1920])
@pytest.mark.parametrize("size", [(64, 96), (640, 640), (900, 300)])
def test_the_longest_side_is_limited(size: tuple[int, int], max_side_px: int):
    drawn = draw_batch(batch(9, *size), torch.zeros(0, 6), paths(9), NAMES, max_side_px=max_side_px)
    assert max(drawn.shape) <= max_side_px
    assert drawn.shape[0] / drawn.shape[1] == pytest.approx(size[0] / size[1], rel=0.03)


def test_cells_are_filled_column_by_column_and_the_rest_is_white():
    drawn = draw_batch(batch(3), torch.zeros(0, 6), paths(3), NAMES)
    centres = [drawn[y, x].tolist() for x in (320, 960) for y in (240, 720)]
    assert centres == [[10] * 3, [11] * 3, [12] * 3, [255] * 3]


def test_cells_have_a_white_border():
    drawn = draw_batch(batch(4), torch.zeros(0, 6), paths(4), NAMES)
    for edge in (drawn[:2], drawn[479:481], drawn[-1:]):
        assert (edge[:, 200:600] == 255).all()
    assert (drawn[100:400, 639:641] == 255).all()
    assert (drawn[100:400, 4] != 255).all()


def test_a_box_is_drawn_in_its_image_in_the_colour_of_its_class():
    targets = torch.tensor([[1, 1, 0.5, 0.5, 0.25, 0.5], [2, 0, 0.25, 0.75, 0.25, 0.25]])
    drawn = draw_batch(batch(4), targets, paths(4), NAMES)
    second, third = drawn[480:, :640], drawn[:480, 640:]
    assert has_colour(second, 1)[120:361, 240].all()
    assert has_colour(second, 1)[360, 240:401].all()
    assert not has_colour(second, 1)[:90].any()
    assert has_colour(third, 0)[420, 80:241].all()
    assert not has_colour(drawn[:480, :640], 0).any()
    assert not has_colour(drawn[480:, 640:], 1).any()


def test_boxes_of_images_that_are_not_shown_are_not_drawn():
    targets = torch.tensor([[3, 1, 0.5, 0.5, 0.5, 0.5]])
    drawn = draw_batch(batch(4), targets, paths(4), NAMES, max_images=1)
    assert drawn.shape == (480, 640, 3)
    assert not has_colour(drawn, 1).any()


def test_inputs_are_not_written_to():
    images, targets = batch(5, 64, 96), torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5], [4, 0, 0.1, 0.1, 0.9, 0.9]])
    images_before, targets_before = images.clone(), targets.clone()
    draw_batch(images, targets, paths(5), NAMES)
    assert torch.equal(images, images_before)
    assert torch.equal(targets, targets_before)


def test_an_image_at_its_own_size_is_copied_before_drawing():
    images = batch(1)  # neither reduced nor enlarged
    draw_batch(images, torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]]), paths(1), NAMES)
    assert (images == 10).all()


def test_the_file_name_is_written_in_the_corner_and_without_its_folder():
    images, none = batch(1), torch.zeros(0, 6)
    drawn = draw_batch(images, none, ["a/b/one.jpg"], NAMES)
    assert (drawn[4:20, 4:60] > 150).any()
    assert (drawn == draw_batch(images, none, ["elsewhere/one.jpg"], NAMES)).all()
    assert (drawn != draw_batch(images, none, ["a/b/two.jpg"], NAMES)).any()


def test_long_and_foreign_file_names_stay_in_their_cell():
    images, none = batch(4, 64, 64), torch.zeros(0, 6)
    drawn = draw_batch(images, none, ["é" * 300 + ".jpg", "a.jpg", "b.jpg", "c.jpg"], NAMES, max_side_px=200)
    plain = draw_batch(images, none, ["x.jpg", "a.jpg", "b.jpg", "c.jpg"], NAMES, max_side_px=200)
    assert (drawn[:, 100:] == plain[:, 100:]).all()
    assert (drawn[100:] == plain[100:]).all()


def test_many_boxes_are_drawn_with_thin_lines():
    box = [0.5, 0.5, 0.5, 0.5]
    few = draw_batch(batch(1), torch.tensor([[0, 1, *box]]), paths(1), NAMES)
    many = draw_batch(batch(1), torch.tensor([[0, 1, *box]] * 200), paths(1), NAMES)
    assert has_colour(few, 1)[240, 150:170].sum() > 1
    assert has_colour(many, 1)[240, 150:170].sum() == 1


def test_a_box_partly_outside_is_cut_off():
    drawn = draw_batch(batch(1), torch.tensor([[0, 0, 1.0, 0.5, 0.5, 0.5]]), paths(1), NAMES)
    assert has_colour(drawn, 0)[130:350, 480].all()
    assert has_colour(drawn, 0)[360, 490:630].all()
