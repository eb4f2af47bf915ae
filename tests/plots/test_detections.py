"""Detections on images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov6_ignite.plots import class_colour, draw_detections, top_detections

NAMES = ["RBC", "WBC", "Platelets"]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60, (480, 640, 3), dtype=np.uint8)


def draw(image: np.ndarray, boxes: list[list[float]], classes: list[int], names: list[str] = NAMES) -> np.ndarray:
    scores = np.full(len(boxes), 0.87)
    return draw_detections(image, np.array(boxes, dtype=float).reshape(-1, 4), scores, np.array(classes), names)


def has_colour(drawn: np.ndarray, index: int) -> np.ndarray:
    return (drawn == class_colour(index)).all(axis=2)


def test_edges_are_where_the_box_is_in_the_colour_of_its_class(image: np.ndarray):
    drawn = draw(image, [[100, 200, 300, 400], [400, 100, 500, 300]], [1, 2])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    first, second = has_colour(drawn, 1), has_colour(drawn, 2)
    assert first[200:401, 100].all()
    assert first[200:401, 300].all()
    assert first[400, 100:301].all()
    assert second[300, 400:501].all()
    assert not first[205:396, 105:296].any()
    assert (drawn[205:396, 105:296] == image[205:396, 105:296]).all()


def test_the_label_is_written_above_its_box_in_a_contrasting_colour(image: np.ndarray):
    drawn = draw(image, [[100, 200, 300, 400]], [1])
    label = drawn[175:199, 100:180]
    assert has_colour(label, 1).mean() > 0.3
    assert (label.min(axis=2) > 200).any()


def test_the_input_is_not_written_to(image: np.ndarray):
    before = image.copy()
    small = image[:40, :60].copy()
    draw(image, [[1, 1, 300, 400]], [0])
    draw(small, [[1, 1, 30, 30]], [0])
    assert (image == before).all()
    assert (small == before[:40, :60]).all()


def test_without_boxes_it_is_a_copy(image: np.ndarray):
    drawn = draw(image, [], [])
    assert (drawn == image).all()
    assert not np.shares_memory(drawn, image)


def test_a_reversed_view_is_drawn_too(image: np.ndarray):
    assert (draw(image[..., ::-1], [], []) == image[..., ::-1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_tensors_and_arrays_give_the_same(image: np.ndarray, dtype: torch.dtype):
    boxes, scores, classes = [[100.0, 200.0, 300.0, 400.0]], [0.5], [1.0]
    tensors = [torch.tensor(values, dtype=dtype, requires_grad=True) for values in (boxes, scores, classes)]
    expected = draw_detections(image, np.array(boxes), np.array(scores), np.array(classes), NAMES)
    assert (draw_detections(image, *tensors, NAMES) == expected).all()


def test_a_box_that_reaches_out_is_cut_off_with_its_label_inside(image: np.ndarray):
    drawn = draw(image, [[-50, -60, 200, 150], [600, 440, 1e12, 900]], [0, 1])
    first, second = has_colour(drawn, 0), has_colour(drawn, 1)
    assert first[:151, 200].all()
    assert first[150, :201].all()
    assert not first[30:148, 0:198].any()  # no edge along the image's border
    assert first[:30, :60].mean() > 0.1  # the label
    assert second[440:, 600].all()
    assert second[410:440, 560:].mean() > 0.2


def test_a_box_outside_is_left_out(image: np.ndarray):
    assert (draw(image, [[700, 10, 900, 50], [-90, -90, -20, -20]], [0, 1]) == image).all()


def test_the_best_detection_is_on_top(image: np.ndarray):
    assert has_colour(draw(image, [[100, 100, 300, 300]] * 2, [2, 1]), 2)[300, 100:301].all()


def test_labels_of_boxes_on_each_other_do_not_hide_each_other(image: np.ndarray):
    drawn = draw(image, [[100, 100, 300, 300]] * 2, [2, 1])
    assert has_colour(drawn, 2).any()
    assert has_colour(drawn, 1).sum() > 300  # the label of the hidden box


@pytest.mark.parametrize("shape", [(64, 96), (300, 20), (1, 1), (17, 399)])
def test_small_images_are_enlarged_by_a_whole_factor(shape: tuple[int, int]):
    image = np.zeros((*shape, 3), dtype=np.uint8)
    drawn = draw(image, [[0, 0, shape[1], shape[0]]], [0])
    factor = drawn.shape[0] // shape[0]
    assert drawn.shape == (shape[0] * factor, shape[1] * factor, 3)
    assert 400 <= max(drawn.shape) < 800 or max(shape) == 1


def test_boxes_are_enlarged_with_the_image():
    drawn = draw(np.zeros((100, 100, 3), dtype=np.uint8), [[25, 50, 75, 75]], [1])
    assert drawn.shape == (400, 400, 3)
    assert has_colour(drawn, 1)[200:301, 100].all()
    assert has_colour(drawn, 1)[300, 100:301].all()


@pytest.mark.parametrize("name", ["x" * 500, "Blutplättchen 血小板", "", "50% \\n {}"])
def test_any_name_can_be_drawn(image: np.ndarray, name: str):
    drawn = draw(image, [[500, 5, 630, 100]], [0], [name])
    assert has_colour(drawn, 0)[100, 500:631].all()


def test_a_class_without_a_name_is_labelled_with_its_number(image: np.ndarray):
    boxes = [[100, 200, 300, 400]]
    assert (draw(image, boxes, [7], NAMES) == draw(image, boxes, [7], [""] * 7 + ["7"])).all()


def test_lines_are_wider_in_large_images():
    drawn = draw(np.zeros((2000, 2000, 3), dtype=np.uint8), [[500, 500, 1500, 1500]], [0])
    assert has_colour(drawn, 0)[1000, 480:520].sum() >= 6


def test_top_detections_are_the_first_ones_above_the_score():
    scores = torch.tensor([0.9, 0.8, 0.5, 0.3, 0.2999, 0.1])
    detections = torch.cat([torch.arange(24.0).view(6, 4), scores[:, None], torch.zeros(6, 1)], dim=1)
    assert torch.equal(top_detections(detections), detections[:4])
    assert torch.equal(top_detections(detections, min_score=0.0, max_boxes=2), detections[:2])
    assert top_detections(detections, min_score=0.95).shape == (0, 6)
    assert top_detections(torch.zeros(0, 6)).shape == (0, 6)
