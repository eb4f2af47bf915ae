"""Exact class-aware non-maximum suppression, without torchvision (specification, training 13.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov6_ignite.metrics.boxes import cxcywh_to_xyxy

__all__ = ["non_max_suppression"]

# Candidates of an image decided at a time, and images: on a CPU small for its caches, and one image, since images end
# at different points; elsewhere large, against launches and synchronisations.
_CPU_STEP, _STEP = (256, 1), (512, 64)
_MOST_PAIRS = 1 << 25  # box pairs compared at a time: bounds the memory, about six numbers a pair


@torch.no_grad()
def non_max_suppression(
    predictions: Tensor,
    *,
    conf_threshold: float,
    iou_threshold: float,
    max_detections: int = 300,
    multi_label: bool = True,
    max_candidates: int = 30000,
) -> list[Tensor]:
    """Greedy suppression for each image and class, equal to the one-by-one algorithm to the last box.

    A candidate is a (box, class) pair whose score is above ``conf_threshold``; with ``multi_label`` and more
    than one class a box can be several candidates, otherwise only its best class counts. Candidates are
    ordered by descending score, ties by anchor and class. One is kept unless an earlier kept one of its class
    overlaps it with IoU > ``iou_threshold`` (fp32, areas without + 1). Both thresholds are strict. Candidates
    with a non-finite box are left out. There is no time limit.

    Args:
        predictions: (b, anchors, 5 + classes): centre x, centre y, width, height in pixels, objectness (1), class
            scores. Half precision is converted first, so boxes are never rounded to it.
        conf_threshold: lowest score, exclusive.
        iou_threshold: largest overlap of two detections of a class, inclusive.
        max_detections: most detections an image, the best ones.
        multi_label: whether a box can have several classes.
        max_candidates: most candidates an image, the best ones; the others are not looked at.

    Returns:
        For each image a (n, 6) fp32 tensor on the predictions' device: x1, y1, x2, y2 in pixels, score, class;
        by descending score.
    """
    images, anchors, num_classes = predictions.shape[0], predictions.shape[1], predictions.shape[2] - 5
    if not (images and anchors and num_classes):
        return [predictions.new_zeros(0, 6, dtype=torch.float32) for _ in range(images)]
    rows = _candidates(predictions.float(), conf_threshold, multi_label and num_classes > 1, max_candidates)
    rows = [candidates[candidates[:, 4].sort(stable=True, descending=True).indices] for candidates in rows]
    block, together = _CPU_STEP if predictions.device.type == "cpu" else _STEP
    together = max(1, min(together, _MOST_PAIRS // (block * max(block, max_detections))))
    detections: list[Tensor] = []
    for first in range(0, images, together):
        group = [candidates[:max_candidates] for candidates in rows[first : first + together]]
        detections += _suppress(group, iou_threshold, max_detections, block)
    return detections


def _candidates(predictions: Tensor, threshold: float, multi_label: bool, limit: int) -> list[Tensor]:
    """Candidates of each image, (n, 6) like detections, in the order of anchors and classes.

    Of more than ``limit`` candidates, those are left out whose score is below the ``limit``-th best: all ties of that
    one stay.
    """
    boxes, objectness = predictions[..., :4], predictions[..., 4:5]
    objectness = objectness.masked_fill(~boxes.isfinite().all(-1, keepdim=True), torch.nan)  # never above a threshold
    scores = predictions[..., 5:] * objectness
    best_label = None
    if not multi_label:
        best, best_label = scores.max(-1)
        scores = best[..., None]
    above = scores > threshold
    for i, count in enumerate(above.flatten(1).sum(1).tolist()):
        if count > limit:
            lowest = scores[i][above[i]].topk(limit).values[-1]
            above[i] &= scores[i] >= lowest
    image, anchor, label = above.nonzero(as_tuple=True)
    score = scores[image, anchor, label]
    if best_label is not None:
        label = best_label[image, anchor]
    rows = torch.cat((cxcywh_to_xyxy(boxes[image, anchor]), score[:, None], label[:, None].to(score)), dim=1)
    return list(rows.split(image.bincount(minlength=len(predictions)).tolist()))


def _suppress(group: list[Tensor], iou_threshold: float, limit: int, block: int) -> list[Tensor]:
    """Greedy suppression of several images at once, a block of candidates of each at a time.

    A block is first compared with what is kept already, then with itself. Most images are done after a few
    blocks, since only the first ``limit`` survivors are asked for.
    """
    images, longest = len(group), max(len(candidates) for candidates in group)
    rows = torch.nn.utils.rnn.pad_sequence(group, batch_first=True)  # (images, longest, 6)
    lengths = torch.tensor([len(candidates) for candidates in group], device=rows.device)
    # The last row takes what is not kept or beyond the limit, and is never looked at. No candidate has the class -1.
    kept = rows.new_full((images, limit + 1, 6), -1.0)
    count, most = lengths.new_zeros(images), 0
    for start in range(0, longest, block):
        part = rows[:, start : start + block]
        position = torch.arange(start, start + part.shape[1], device=rows.device)
        alive = position < lengths[:, None]
        if most:
            alive &= ~_overlap(kept[:, :most], part, iou_threshold).any(1)
        keep = _greedy(alive, _overlap(part, part, iou_threshold))
        slot = (count[:, None] + keep.cumsum(1) - 1).clamp(max=limit).where(keep, limit)
        kept.scatter_(1, slot[:, :, None].expand_as(part), part)
        count = (count + keep.sum(1)).clamp(max=limit)
        done = (count >= limit) | (lengths <= start + block)
        most, all_done = torch.stack((count.max(), done.all().to(count))).tolist()
        if all_done:
            break
    return [image[:n] for image, n in zip(kept, count.tolist(), strict=True)]


def _overlap(a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether boxes (images, n, 6) and (images, m, 6) are of one class and have IoU > threshold: (images, n, m)."""
    a, b = a[:, :, None], b[:, None]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp_(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp_(min=0)
    intersection = width.mul_(height)
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    return (intersection / (area_a + area_b).sub_(intersection) > iou_threshold) & (a[..., 5] == b[..., 5])


def _greedy(alive: Tensor, overlap: Tensor) -> Tensor:
    """Greedy decision in a block by fixed-point iteration.

    ``keep[i] = alive[i] and no j < i with keep[j] and overlap[j, i]`` has exactly one solution. Each iteration
    settles at least the first candidate that was not settled, in practice whole levels of them.

    Args:
        alive: (images, n), candidates that nothing before the block suppresses.
        overlap: (images, n, n).
    """
    suppresses = overlap.triu_(1).to(torch.float32)
    keep = alive
    while True:
        hit = torch.matmul(keep[:, None].to(torch.float32), suppresses)[:, 0] > 0
        updated = alive & ~hit
        if torch.equal(updated, keep):
            return keep
        keep = updated
