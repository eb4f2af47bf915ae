"""Suppression equals the one-by-one algorithm, whatever the load."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.metrics import nms as nms_module
from yolov6_ignite.metrics import non_max_suppression


def greedy_reference(
    image: Tensor, *, conf: float, iou: float, max_detections: int, multi_label: bool, max_candidates: int
) -> list[list[float]]:
    """One candidate after the other, in fp32 as IEEE rounds it, straight from the specification (training 13.3)."""
    conf_f32, iou_f32, two = np.float32(conf), np.float32(iou), np.float32(2)
    candidates = []
    for cx, cy, w, h, objectness, *scores in image.numpy():
        box = (cx - w / two, cy - h / two, cx + w / two, cy + h / two)
        products = [score * objectness for score in scores]
        labels = range(len(scores)) if multi_label and len(scores) > 1 else [int(np.argmax(products))]
        candidates += [(*box, products[label], label) for label in labels if products[label] > conf_f32]
    candidates.sort(key=lambda row: -row[4])  # stable
    kept: list[tuple] = []
    for row in candidates[:max_candidates]:
        if not any(row[5] == other[5] and overlap(other, row) > iou_f32 for other in kept):
            kept.append(row)
    return [[float(value) for value in row] for row in kept[:max_detections]]


def overlap(a: tuple, b: tuple) -> np.float32:
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    with np.errstate(invalid="ignore"):
        return width * height / (area_a + area_b - width * height)


def golden_predictions() -> Tensor:
    boxes = [(50, 50, 20, 20), (51, 50, 20, 20), (100, 100, 30, 30), (50, 50, 20, 20), (10, 10, 5, 5)]
    scores = [(0.9, 0.1, 0.02), (0.8, 0.2, 0.01), (0.03, 0.031, 0.5), (0.85, 0.86, 0), (0.02, 0.01, 0.03)]
    return torch.tensor([[(*box, 1.0, *score) for box, score in zip(boxes, scores, strict=True)]])


GOLDEN = torch.tensor(
    [
        (40, 40, 60, 60, 0.9, 0),
        (40, 40, 60, 60, 0.86, 1),
        (85, 85, 115, 115, 0.5, 2),
        (85, 85, 115, 115, 0.031, 1),
    ]
)


@pytest.mark.parametrize(("multi_label", "expected"), [(True, GOLDEN), (False, GOLDEN[:3])])
def test_reference_numbers(multi_label: bool, expected: Tensor) -> None:
    predictions = golden_predictions()
    before = predictions.clone()
    (found,) = non_max_suppression(predictions, conf_threshold=0.03, iou_threshold=0.65, multi_label=multi_label)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(predictions, before)


coordinates = st.integers(0, 6).map(lambda i: i / 2)
sizes = st.integers(0, 4).map(float)
few_scores = st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.3, 0.5, 0.9])


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    images, anchors, classes = draw(st.integers(1, 4)), draw(st.integers(1, 14)), draw(st.integers(1, 3))
    scores = st.tuples(*[few_scores] * classes)
    row = st.tuples(coordinates, coordinates, sizes, sizes, st.sampled_from([1.0, 1.0, 0.5]), scores)
    rows = draw(st.lists(row, min_size=images * anchors, max_size=images * anchors))
    values = torch.tensor([(*row[:5], *row[5]) for row in rows])
    return values.view(images, anchors, 5 + classes)


@settings(max_examples=300)
@given(
    predictions=batches(),
    conf=st.sampled_from([0.0, 0.03, 0.25, 0.3]),
    iou=st.sampled_from([0.0, 1 / 3, 0.5, 0.65, 1.0]),
    max_detections=st.sampled_from([1, 3, 300]),
    multi_label=st.booleans(),
    max_candidates=st.sampled_from([2, 7, 30000]),
    step=st.sampled_from([(256, 1), (3, 1), (1, 2), (4, 3)]),
)
def test_equals_the_greedy_algorithm(
    predictions: Tensor,
    conf: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    max_candidates: int,
    step: tuple[int, int],
) -> None:
    with mock.patch.object(nms_module, "_CPU_STEP", step):
        found = non_max_suppression(
            predictions,
            conf_threshold=conf,
            iou_threshold=iou,
            max_detections=max_detections,
            multi_label=multi_label,
            max_candidates=max_candidates,
        )
    expected = [
        greedy_reference(
            image,
            conf=conf,
            iou=iou,
            max_detections=max_detections,
            multi_label=multi_label,
            max_candidates=max_candidates,
        )
        for image in predictions
    ]
    assert [rows.tolist() for rows in found] == expected


@pytest.mark.parametrize("step", [(256, 1), (64, 3)])
@pytest.mark.parametrize("classes", [1, 4])
def test_equals_the_greedy_algorithm_on_crowds(classes: int, step: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(classes)
    places = 100 + 40 * torch.rand(3, 1, 15, 2, generator=generator)
    centres = (places + 6 * torch.randn(3, 30, 15, 2, generator=generator)).flatten(1, 2)
    sizes = 20 + 30 * torch.rand(3, 450, 2, generator=generator)
    scores = torch.rand(3, 450, classes, generator=generator).mul(50).round().div(50)  # many ties
    predictions = torch.cat((centres, sizes, torch.ones(3, 450, 1), scores), dim=-1)
    with mock.patch.object(nms_module, "_CPU_STEP", step):
        found = non_max_suppression(predictions, conf_threshold=0.3, iou_threshold=0.5, max_detections=60)
    for image, rows in zip(predictions, found, strict=True):
        expected = greedy_reference(image, conf=0.3, iou=0.5, max_detections=60, multi_label=True, max_candidates=30000)
        assert rows.tolist() == expected


def test_a_chain_of_suppressions_is_followed_to_its_end() -> None:
    count = 700  # more than a block; each box overlaps only its neighbours, so every second one stays
    predictions = torch.zeros(1, count, 6)
    predictions[0, :, 0] = torch.arange(count) * 4.0
    predictions[0, :, 2:4], predictions[0, :, 4] = 10.0, 1.0
    predictions[0, :, 5] = torch.linspace(0.9, 0.1, count)
    (found,) = non_max_suppression(predictions, conf_threshold=0.03, iou_threshold=0.4, max_detections=1000)
    assert torch.equal(found[:, 0], torch.arange(0, count, 2) * 4.0 - 5.0)


def test_both_thresholds_are_strict() -> None:
    # IoU of 3 x 1 and 2 x 1 boxes that share 2 x 1 - exactly 2 / 3 in fp32 - and a score exactly at the threshold
    predictions = torch.tensor([[(1.5, 0.5, 3, 1, 1, 0.9), (1, 0.5, 2, 1, 1, 0.8), (9, 9, 1, 1, 1, 0.25)]])
    (found,) = non_max_suppression(predictions, conf_threshold=0.25, iou_threshold=2 / 3)
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.8])
    (found,) = non_max_suppression(predictions, conf_threshold=0.2499, iou_threshold=0.6666)
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.25])


def test_half_precision_predictions_give_unrounded_corners() -> None:
    predictions = torch.tensor([[(601.0, 300.0, 3.0, 5.0, 1.0, 0.75)]], dtype=torch.float16)
    (found,) = non_max_suppression(predictions, conf_threshold=0.1, iou_threshold=0.5)
    assert found.dtype == torch.float32
    assert found.tolist() == [[599.5, 297.5, 602.5, 302.5, 0.75, 0.0]]


@pytest.mark.parametrize("multi_label", [True, False])
def test_non_finite_boxes_and_scores_are_no_detections(multi_label: bool) -> None:
    predictions = golden_predictions().repeat(2, 1, 1)
    predictions[0, 0, 2] = torch.inf
    predictions[0, 1, 0] = torch.nan
    predictions[0, 3, 5:] = torch.nan
    found = non_max_suppression(
        predictions, conf_threshold=0.03, iou_threshold=0.65, multi_label=multi_label, max_candidates=2
    )
    assert found[0][:, :4].tolist() == [[85, 85, 115, 115]] * (2 if multi_label else 1)
    assert torch.equal(found[1], GOLDEN[:2])


@pytest.mark.parametrize("shape", [(0, 10, 7), (2, 0, 7), (2, 10, 5), (2, 10, 7)])
def test_nothing_to_find(shape: tuple[int, int, int]) -> None:
    found = non_max_suppression(torch.zeros(shape), conf_threshold=0.03, iou_threshold=0.65)
    assert [rows.shape for rows in found] == [(0, 6)] * shape[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_same_detections() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(5, 3000, 4, generator=generator) * 100
    scores = torch.rand(5, 3000, 6, generator=generator).mul(100).round().div(100)
    predictions = torch.cat((boxes, torch.ones(5, 3000, 1), scores), dim=-1)
    on_cpu = non_max_suppression(predictions, conf_threshold=0.2, iou_threshold=0.4)
    on_cuda = non_max_suppression(predictions.cuda(), conf_threshold=0.2, iou_threshold=0.4)
    for ours, theirs in zip(on_cpu, on_cuda, strict=True):
        assert torch.equal(ours, theirs.cpu())
