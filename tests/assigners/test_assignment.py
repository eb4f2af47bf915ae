"""Chunks, and anchors claimed by several objects."""

from __future__ import annotations

import pytest
import torch

from yolov6_ignite.assigners.assignment import chunks, keep_best, settle_claims

CPU = torch.device("cpu")


@pytest.mark.parametrize(("limit", "lengths"), [(1, [1] * 7), (60, [3, 3, 1]), (10_000, [7]), (None, [7])])
def test_chunks_cover_all_objects_once(limit: int | None, lengths: list[int]) -> None:
    parts = list(chunks(2, 10, 7, limit, CPU))
    assert [part.stop - part.start for part in parts] == lengths
    assert [i for part in parts for i in range(7)[part]] == list(range(7))


def test_first_of_equal_overlaps_is_kept() -> None:
    iou = torch.tensor([[[0.1, 0.5, 0.0], [0.3, 0.5, 0.0], [0.3, 0.2, 0.0], [0.2, 0.6, 0.0]]])
    best = None
    for start in (0, 2):
        best = keep_best(best, iou[:, start : start + 2], start)
    assert best is not None
    assert best[1].tolist() == [[1, 3, 0]]


def test_contested_anchor_goes_to_the_best_overlap() -> None:
    considered = torch.tensor([[[0, 1], [1, 2], [4, 3]]])
    claimed = torch.tensor([[[True, True], [True, True], [False, True]]])
    best_gt = torch.full((1, 5), 2)  # which claimed none of them
    gt_index, positive = settle_claims(considered, claimed, best_gt)
    assert positive.tolist() == [[True, True, True, True, False]]
    assert gt_index.tolist() == [[0, 2, 1, 2, 0]]
