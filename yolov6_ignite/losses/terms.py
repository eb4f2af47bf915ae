"""The weighted terms of an objective by name, and what every objective learns from labelled boxes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from yolov6_ignite.losses.dfl import distribution_focal_loss
from yolov6_ignite.losses.iou import IoUKind, iou_loss
from yolov6_ignite.losses.positives import Positives
from yolov6_ignite.losses.varifocal import varifocal_loss
from yolov6_ignite.models.anchors import boxes_to_distances

__all__ = [
    "CLASS_WEIGHT",
    "DFL_WEIGHT",
    "IOU_WEIGHT",
    "Items",
    "add_by_name",
    "checked_class_weights",
    "label_terms",
    "total_and_items",
]

CLASS_WEIGHT, IOU_WEIGHT, DFL_WEIGHT = 1.0, 2.5, 0.5

Items = dict[str, Tensor]


def label_terms(
    logits: Tensor,
    boxes: Sequence[Tensor],
    positives: Positives,
    normaliser: Tensor,
    *,
    iou_type: IoUKind,
    distribution: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Items:
    """Varifocal loss on all classes; on positive anchors an IoU loss and distribution focal loss, weighted by score.

    Args:
        logits: (batch, A, classes).
        boxes: what a head predicts for the positive anchors, (batch, P, 4) each, x1, y1, x2, y2 in strides; the
            losses of several predictions add up.
        positives: the positive anchors.
        normaliser: what sums are divided by.
        iou_type: the box loss.
        distribution: (batch, P, 4 x (reg_max + 1)) logits over bins at the positive anchors; None: `dfl` is 0.
        class_weights: (classes,) factors of the target classes' varifocal loss; None: 1.

    Returns:
        The weighted terms `iou`, `dfl` and `cls`.
    """
    box = _sum(_weighted_sum(_iou_losses(x, positives, iou_type), positives) for x in boxes)
    dfl = torch.zeros_like(box)
    if distribution is not None:
        reg_max = distribution.shape[-1] // 4 - 1
        distances = boxes_to_distances(positives.boxes, positives.points, reg_max)
        dfl = _weighted_sum(distribution_focal_loss(distribution, distances), positives)
    return {
        "iou": IOU_WEIGHT * box / normaliser,
        "dfl": DFL_WEIGHT * dfl / normaliser,
        "cls": CLASS_WEIGHT * _classification(logits, positives, class_weights) / normaliser,
    }


def add_by_name(*parts: Items) -> Items:
    """Sums of the terms that have the same name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _sum(part[name] for part in parts if name in part) for name in names}


def total_and_items(terms: Items) -> tuple[Tensor, Items]:
    """What an objective returns: the sum of its terms, and the terms detached."""
    return _sum(terms.values()), {name: term.detach() for name, term in terms.items()}


def checked_class_weights(weights: Tensor | None, num_classes: int) -> Tensor | None:
    """The weights as fp32.

    Raises:
        ValueError: they are not one a class.
    """
    if weights is None:
        return None
    if weights.shape != (num_classes,):
        raise ValueError(
            f"class_weights of shape {tuple(weights.shape)}: expected one for each of {num_classes} classes"
        )
    return weights.detach().float()


def _sum(values: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, values)


def _weighted_sum(losses: Tensor, positives: Positives) -> Tensor:
    return (losses * positives.scores).sum()


def _iou_losses(predicted: Tensor, positives: Positives, kind: IoUKind) -> Tensor:
    # Slots that are not valid compare equal boxes, whose loss and gradient are finite in every case.
    valid = positives.valid[..., None]
    unit = torch.cat((positives.points - 0.5, positives.points + 0.5), dim=-1)
    return iou_loss(torch.where(valid, predicted, unit), torch.where(valid, positives.boxes, unit), kind)


def _classification(logits: Tensor, positives: Positives, class_weights: Tensor | None) -> Tensor:
    batch, anchors, classes = logits.shape
    image = torch.arange(batch, device=logits.device)[:, None]
    index = (image * anchors + positives.anchor_index) * classes + positives.labels
    weight = None if class_weights is None else class_weights[positives.labels].flatten()
    return varifocal_loss(logits, index.flatten(), positives.scores.flatten(), positives.valid.flatten(), weight)
