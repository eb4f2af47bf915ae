"""Adaptive training sample selection against published assignments and against its definition in plain loops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov6_ignite.assigners import Assignment, ATSSAssigner, GroundTruth
from yolov6_ignite.models.anchors import anchor_points

fuzzing = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**31)
object_counts = st.lists(st.integers(0, 9), min_size=1, max_size=3)


def run(scene: Any, **options: Any) -> Assignment:
    return ATSSAssigner(**options)(scene.boxes, scene.points, scene.strides, scene.level_sizes, scene.truth)


def iou_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter, 1e-6)


def by_definition(scene: Any, image: int, count: int) -> dict[int, tuple[int, float]]:
    """Anchor: (object, target score) of the positives of one image (specification, training 10.3)."""
    points, strides = scene.points.tolist(), scene.strides.flatten().tolist()
    squares = [[x - 2.5 * s, y - 2.5 * s, x + 2.5 * s, y + 2.5 * s] for (x, y), s in zip(points, strides, strict=True)]
    gts = scene.truth.boxes[image, :count].tolist()
    iou = [[iou_of(gt, square) for square in squares] for gt in gts]
    claims: dict[int, list[int]] = {}
    for m, gt in enumerate(gts):
        centre = ((gt[0] + gt[2]) / 2, (gt[1] + gt[3]) / 2)
        candidates, first = [], 0
        for size in scene.level_sizes:
            level = sorted(range(first, first + size), key=lambda a: math.dist(points[a], centre))
            candidates += level[:9]
            first += size
        near = [iou[m][a] for a in candidates]
        threshold = statistics.mean(near) + statistics.stdev(near)
        for a in candidates:
            if iou[m][a] > threshold and gt[0] < points[a][0] < gt[2] and gt[1] < points[a][1] < gt[3]:
                claims.setdefault(a, []).append(m)
    boxes = scene.boxes[image].tolist()
    owner = {a: ms[0] if len(ms) == 1 else max(range(count), key=lambda m: iou[m][a]) for a, ms in claims.items()}
    return {a: (m, iou_of(gts[m], boxes[a])) for a, m in owner.items()}


def test_published_assignment(published_scene: Any) -> None:
    assignment = run(published_scene)
    expected = [
        "55:0 .086524 56:0 .164859 75:0 .107366 76:0 .100534 342:1 .084439 343:1 .556343 352:1 .231959 353:1 .190152"
        " 354:2 .242765 355:2 .324422 356:2 .297894 364:2 .220309 365:2 .049004 366:2 .720461",
        "407:0 .179037 412:0 .546078",
    ]
    labels = published_scene.truth.labels.gather(1, assignment.gt_index)
    for image, line in enumerate(expected):
        words = line.split()
        anchors = [int(word.split(":")[0]) for word in words[::2]]
        assert assignment.positive[image].nonzero().flatten().tolist() == anchors
        assert labels[image, anchors].tolist() == [int(word.split(":")[1]) for word in words[::2]]
        got = assignment.score[image, anchors].tolist()
        assert got == pytest.approx([float(word) for word in words[1::2]], abs=1e-6)
    assert assignment.score.sum().item() == pytest.approx(4.102145671844482, rel=1e-6)


@fuzzing
@given(seed=seeds, counts=object_counts)
def test_definition(seed: int, counts: list[int], make_scene: Callable[..., Any]) -> None:
    scene = make_scene(seed, counts)
    assignment = run(scene)
    for image, count in enumerate(counts):
        expected = by_definition(scene, image, count)
        positives = assignment.positive[image].nonzero().flatten().tolist()
        assert positives == sorted(expected)
        assert len(positives) <= assignment.capacity
        assert assignment.gt_index[image, positives].tolist() == [expected[a][0] for a in positives]
        got = assignment.score[image, positives].tolist()
        assert got == pytest.approx([expected[a][1] for a in positives], rel=1e-4, abs=1e-7)
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
    moved = run(scene._replace(boxes=scene.boxes[order], truth=GroundTruth(*(x[order] for x in scene.truth))))
    for got, expected in zip(moved[:3], run(scene)[:3], strict=True):
        assert torch.equal(got, expected[order])


def test_levels_with_fewer_cells_than_candidates(make_scene: Callable[..., Any]) -> None:
    scene = make_scene(1, [2])
    sizes = [(8, 8), (4, 4), (2, 2)]
    points, strides = anchor_points(sizes, (8, 16, 32))
    boxes = torch.cat((points - 20, points + 20), 1)[None]
    truth = scene.truth._replace(boxes=torch.tensor([[[3.0, 5, 60, 50], [10, 10, 30, 26]]]))
    small = scene._replace(boxes=boxes, points=points, strides=strides, level_sizes=[64, 16, 4], truth=truth)
    assignment = run(small)
    expected = by_definition(small, 0, 2)
    assert assignment.positive[0].nonzero().flatten().tolist() == sorted(expected)
    assert expected


def test_nothing_is_positive_without_objects(make_scene: Callable[..., Any]) -> None:
    assignment = run(make_scene(0, [0, 0]))
    assert not assignment.positive.any()
    assert not assignment.score.any()
