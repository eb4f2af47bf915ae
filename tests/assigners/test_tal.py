"""Task-aligned assignment against published assignments and against its definition in plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.assigners import Assignment, GroundTruth, TaskAlignedAssigner

fuzzing = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**31)
object_counts = st.lists(st.integers(0, 9), min_size=1, max_size=3)


def run(scene: Any, **options: Any) -> Assignment:
    return TaskAlignedAssigner(**options)(scene.logits, scene.boxes, scene.points, scene.truth)


def assert_same(got: Assignment, expected: Assignment) -> None:
    """Equal up to the last bit of the scores: a sigmoid's depends on where in memory it is taken."""
    assert torch.equal(got.positive, expected.positive)
    assert torch.equal(got.gt_index, expected.gt_index)
    torch.testing.assert_close(got.score, expected.score, rtol=1e-5, atol=0)


def iou_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter + 1e-9)


def by_definition(
    scores: list[list[float]], boxes: list[list[float]], points: list[list[float]], labels: list[int], gts: Any, k: int
) -> dict[int, tuple[int, float]]:
    """Anchor: (object, target score) of the positives of one image (specification, training 10.2)."""
    anchors = range(len(boxes))
    iou = [[iou_of(gt, box) for box in boxes] for gt in gts]
    metric = [[scores[a][label] * iou[m][a] ** 6 for a in anchors] for m, label in enumerate(labels)]
    claims: dict[int, list[int]] = {}
    for m, gt in enumerate(gts):
        inside = [
            a for a in anchors if gt[0] < points[a][0] < gt[2] and gt[1] < points[a][1] < gt[3] and metric[m][a] > 0
        ]
        for a in sorted(inside, key=lambda a: -metric[m][a])[:k]:
            claims.setdefault(a, []).append(m)
    owner = {a: ms[0] if len(ms) == 1 else max(range(len(gts)), key=lambda m: iou[m][a]) for a, ms in claims.items()}
    result = {}
    for a, m in owner.items():
        own = [b for b in owner if owner[b] == m]
        highest, overlap = max(metric[m][b] for b in own), max(iou[m][b] for b in own)
        result[a] = (m, metric[m][a] * overlap / (highest + 1e-9))
    return result


def test_published_assignment(published_scene: Any) -> None:
    assignment = run(published_scene)
    first = "55 56 75 76 85 125 126 127 145 148 153 165 188 213 331 332 343 345 346 351 353 355 356 362 363 366 376"
    second = "346 377 382 402 403 405 406 408 410 412 414 416 417"
    for image, expected in enumerate((first, second)):
        assert assignment.positive[image].nonzero().flatten().tolist() == [int(a) for a in expected.split()]
    assert assignment.score.sum().item() == pytest.approx(4.366859744730678, rel=1e-6)
    labels = published_scene.truth.labels.gather(1, assignment.gt_index)
    for image, anchor, label, score in [
        (0, 125, 1, 0.583631),
        (0, 345, 2, 0.427531),
        (0, 366, 2, 0.720461),
        (0, 153, 2, 0.230869),
        (0, 346, 2, 0.194598),
        (0, 56, 0, 0.16485),
        (0, 376, 2, 0.117719),
        (0, 85, 1, 0.110507),
        (1, 412, 0, 0.546078),
        (1, 408, 0, 0.220362),
        (1, 416, 0, 0.144381),
        (1, 346, 0, 0.119931),
    ]:
        assert labels[image, anchor] == label
        assert assignment.score[image, anchor].item() == pytest.approx(score, abs=1e-6)


@fuzzing
@given(seed=seeds, counts=object_counts, k=st.sampled_from([1, 4, 13]))
def test_definition(seed: int, counts: list[int], k: int, make_scene: Callable[..., Any]) -> None:
    scene = make_scene(seed, counts)
    assignment = run(scene, top_k=k)
    for image, count in enumerate(counts):
        expected = by_definition(
            scene.logits[image].double().sigmoid().tolist(),
            scene.boxes[image].tolist(),
            scene.points.tolist(),
            scene.truth.labels[image, :count].tolist(),
            scene.truth.boxes[image, :count].tolist(),
            k,
        )
        positives = assignment.positive[image].nonzero().flatten().tolist()
        assert positives == sorted(expected)
        assert len(positives) <= assignment.capacity
        assert assignment.gt_index[image, positives].tolist() == [expected[a][0] for a in positives]
        got = assignment.score[image, positives].tolist()
        assert got == pytest.approx([expected[a][1] for a in positives], rel=1e-4, abs=1e-9)
        assert assignment.score[image].count_nonzero() <= len(positives)


@fuzzing
@given(seed=seeds, counts=object_counts)
def test_chunk_size_does_not_matter(seed: int, counts: list[int], make_scene: Callable[..., Any]) -> None:
    scene = make_scene(seed, counts)
    whole = run(scene)
    for limit in (1, 3 * 252 * len(counts)):
        for got, expected in zip(run(scene, chunk_elements=limit)[:3], whole[:3], strict=True):
            assert torch.equal(got, expected)


@fuzzing
@given(seed=seeds, counts=st.lists(st.integers(0, 9), min_size=3, max_size=3), order=st.permutations(range(3)))
def test_images_are_independent(seed: int, counts: list[int], order: list[int], make_scene: Callable[..., Any]) -> None:
    scene = make_scene(seed, counts)
    whole = run(scene)
    moved = run(
        scene._replace(
            logits=scene.logits[order], boxes=scene.boxes[order], truth=GroundTruth(*(x[order] for x in scene.truth))
        )
    )
    assert_same(moved, Assignment(*(x[order] for x in whole[:3]), moved.capacity))
    # Alone, an image has less padding.
    count = max(1, counts[0])
    alone = run(
        scene._replace(
            logits=scene.logits[:1], boxes=scene.boxes[:1], truth=GroundTruth(*(x[:1, :count] for x in scene.truth))
        )
    )
    assert_same(alone, Assignment(*(x[:1] for x in whole[:3]), alone.capacity))


def test_nothing_is_positive_without_objects(make_scene: Callable[..., Any]) -> None:
    assignment = run(make_scene(0, [0, 0]))
    assert not assignment.positive.any()
    assert not assignment.score.any()


def test_anchors_inside_that_no_prediction_meets_become_positives_without_score(make_scene: Callable[..., Any]) -> None:
    scene = make_scene(0, [1])
    box = torch.tensor([[[0.0, 0, 17, 17]]])  # five anchor points inside, fewer than are asked for
    away = scene.boxes + 200
    assignment = run(scene._replace(boxes=away, truth=scene.truth._replace(boxes=box)))
    positives = assignment.positive[0].nonzero().flatten()
    # Which of the many anchors with a metric of 0 are taken is topk's choice: those of them inside count.
    assert all((scene.points[positives] < 17).all(-1))
    assert not assignment.score.any()


def test_logits_of_any_type(make_scene: Callable[..., Any]) -> None:
    scene = make_scene(5, [6, 2])
    rounded: Tensor = scene.logits.bfloat16()
    low, full = run(scene._replace(logits=rounded)), run(scene._replace(logits=rounded.float()))
    assert torch.equal(low.positive, full.positive)
    assert torch.equal(low.score, full.score)
    assert low.score.dtype == torch.float32
