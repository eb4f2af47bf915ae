"""What the exporter's own check lets pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.check import (
    QUANTIZED,
    QUANTIZED_FAST,
    Agreement,
    ExportMismatchError,
    Tolerance,
    compare,
    quantized_tolerance,
)
from yolov6_ignite.exporting.graphs import DetectionGraph, EndToEndGraph, RawLevelGraph
from yolov6_ignite.exporting.sample_images import sample_batches
from yolov6_ignite.exporting.settings import Thresholds
from yolov6_ignite.metrics import non_max_suppression
from yolov6_ignite.models import Detector
from yolov6_ignite.weights import Weights

BATCHES = sample_batches([1, 3], [(64, 96)])


@pytest.fixture(scope="module")
def model(tiny_weights: Weights) -> Detector:
    return tiny_weights.build().deploy()


def compared(model: Detector, change: Callable[[Tensor], Tensor], *, half: bool = False) -> Agreement:
    graph = DetectionGraph(model)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [change(graph(images.float())[0])]

    return compare(graph, graph, run, BATCHES, half=half)


def test_equal_outputs_are_good(model: Detector) -> None:
    agreement = compared(model, lambda output: output)
    assert agreement.good
    assert agreement.boxes == agreement.scores == 0
    assert agreement.boxes_db == math.inf
    assert (agreement.images, agreement.batch_sizes) == (4, (1, 3))


@pytest.mark.parametrize("column", [0, 3, 5, 7])
def test_one_wrong_number_is_not_good(model: Detector, column: int) -> None:
    def change(output: Tensor) -> Tensor:
        output = output.clone()
        output[0, 17, column] += 0.01 * (96 if column < 5 else 1)
        return output

    agreement = compared(model, change)
    assert (agreement.boxes if column < 5 else agreement.scores) == pytest.approx(0.01, rel=1e-3)
    assert (agreement.scores if column < 5 else agreement.boxes) == 0
    assert not agreement.good


def test_noise_is_measured_in_decibels(model: Detector) -> None:
    agreement = compared(model, lambda output: output * 1.01)
    assert agreement.boxes_db == pytest.approx(40, abs=0.01)
    assert agreement.scores_db == pytest.approx(40, abs=0.01)
    assert not agreement.good
    assert compared(model, lambda output: output * (1 + 1e-3), half=True).good
    assert not compared(model, lambda output: output * 1.2, half=True).good


def test_noise_of_quantised_scores_is_that_of_their_logits(model: Detector) -> None:
    def louder(output: Tensor) -> Tensor:
        return torch.cat((output[..., :5], (output[..., 5:].logit() * 1.01).sigmoid()), dim=-1)

    graph = DetectionGraph(model)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [louder(graph(images)[0])]

    agreement = compare(graph, graph, run, BATCHES, tolerance=QUANTIZED)
    assert agreement.scores_db == pytest.approx(40, abs=0.05)
    assert "(40.0 dB of logits)" in str(agreement)
    assert compare(graph, graph, run, BATCHES, tolerance=QUANTIZED_FAST).good
    assert compare(graph, graph, run, BATCHES).scores_db != pytest.approx(40, abs=0.05)


@pytest.mark.parametrize(
    ("boxes_db", "logits_db", "bar_db"),
    [(50, 45, 40), (50, 33, 36), (34, 50, 37), (20, 50, 30), (math.inf, math.inf, 40)],
)
def test_a_quantised_file_is_nearer_to_its_model_than_floating_point_is(
    boxes_db: float, logits_db: float, bar_db: float
) -> None:
    from_float = Agreement(1, (1,), 0.1, 0.1, boxes_db, logits_db, None, QUANTIZED)
    tolerance = quantized_tolerance(from_float)
    assert tolerance == Tolerance(QUANTIZED.difference, bar_db, of_logits=True)
    assert not replace(from_float, tolerance=tolerance, scores_db=bar_db - 0.1, boxes_db=99).good
    assert replace(from_float, tolerance=tolerance, scores_db=bar_db, boxes_db=bar_db).good


def test_boxes_of_raw_levels_are_measured_where_they_lie(model: Detector) -> None:
    graph = RawLevelGraph(model)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            levels = graph(images)
        return [torch.cat((level[:, :-4], level[:, -4:] * 1.01), dim=1) for level in levels]

    assert 40.5 < compare(graph, graph, run, BATCHES).boxes_db < 70


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_never_good(model: Detector, value: float) -> None:
    for column in (1, 6):

        def change(output: Tensor, column: int = column) -> Tensor:
            output = output.clone()
            output[0, 0, column] = value
            return output

        assert not compared(model, change).good


def test_an_infinite_score_is_not_good_though_its_logit_is_near(model: Detector) -> None:
    graph = DetectionGraph(model)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            output = graph(images)[0].clone()
        output[0, 0, 6] = math.inf
        return [output]

    agreement = compare(graph, graph, run, BATCHES, tolerance=Tolerance(1e-3, 0, of_logits=True))
    assert agreement.scores_db > 0
    assert not agreement.good


def test_files_that_fail_or_have_other_shapes_are_refused(model: Detector) -> None:
    def fail(output: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nand a long story")

    with pytest.raises(ExportMismatchError, match=r"fails on images of \(1, 3, 64, 96\): no such kernel$"):
        compared(model, fail)
    with pytest.raises(ExportMismatchError, match="other shapes"):
        compared(model, lambda output: output[:, 1:])


def test_detections_must_be_the_library_s(model: Detector) -> None:
    graph = EndToEndGraph(model, Thresholds(0.005, 0.5, 20))
    plain = DetectionGraph(model)
    spoil = False

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            (output,) = plain(images)
        boxes, scores, classes = (
            torch.zeros(len(images), 20, 4),
            torch.zeros(len(images), 20),
            torch.zeros(len(images), 20),
        )
        counts = torch.zeros(len(images), 1)
        kept = non_max_suppression(output, conf_threshold=0.005, iou_threshold=0.5, max_detections=20)
        for image, rows in enumerate(kept):
            n = len(rows)
            counts[image], boxes[image, :n], scores[image, :n], classes[image, :n] = (
                n,
                rows[:, :4],
                rows[:, 4],
                rows[:, 5],
            )
        if spoil:
            classes[0, 0] = (classes[0, 0] + 1) % 3
        return [counts, boxes, scores, classes, output]

    agreement = compare(graph, plain, run, BATCHES)
    assert agreement.detections == 80
    spoil = True
    with pytest.raises(ExportMismatchError, match="not the 20 that the library selects"):
        compare(graph, plain, run, BATCHES)


@pytest.mark.parametrize(("head", "use_dfl"), [("plain", False), ("plain", True), ("distill_ns", True)])
def test_raw_levels_hold_what_detection_decodes(
    random_weights: Callable[..., Weights], tiny: dict[str, float], head: str, use_dfl: bool
) -> None:
    distances = {"model.head.use_dfl": True, "model.head.reg_max": 16} if use_dfl else {}
    model = random_weights(**tiny, **distances, head=head).build().deploy()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        levels, detections = RawLevelGraph(model)(images), model(images)
    assert [tuple(level.shape) for level in levels] == [(2, 7, 64 // s, 96 // s) for s in (8, 16, 32)]
    sides, scores = RawLevelGraph(model).predictions(levels)
    torch.testing.assert_close(scores, detections[..., 5:])
    torch.testing.assert_close(sides[..., :2] + sides[..., 2:], detections[..., 2:4], rtol=1e-5, atol=1e-4)


def test_given_images_fill_every_batch(tmp_path: Path) -> None:
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((10, 20, 3), (number, 0, 255), np.uint8))
    batches = sample_batches([1, 3], [(64, 64), (96, 128)], tmp_path)
    assert [tuple(batch.shape) for batch in batches] == [
        (1, 3, 64, 64),
        (3, 3, 64, 64),
        (3, 3, 64, 64),
        (3, 3, 96, 128),
    ]
    assert [int(image[2, 32, 32]) for batch in batches[:3] for image in batch] == [0, 0, 1, 2, 3, 4, 0]
    assert int(batches[0][0, 0, 32, 32]) == 255  # RGB
    assert batches[0].dtype == torch.uint8


def test_folders_without_usable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--images: .*nowhere is no folder"):
        sample_batches([1], [(64, 64)], tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--images: there is no image in"):
        sample_batches([1], [(64, 64)], tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"--images: .*bad\.jpg cannot be decoded"):
        sample_batches([1], [(64, 64)], tmp_path)
