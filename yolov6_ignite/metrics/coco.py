"""COCO average precision as an Ignite metric; pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from yolov6_ignite.distributed import from_rank_zero
from yolov6_ignite.metrics.boxes import xyxy_to_coco
from yolov6_ignite.metrics.coco_result import STATISTICS, ClassResult, CocoResult
from yolov6_ignite.metrics.ground_truth import CocoGroundTruth, coco_in_memory

__all__ = ["CocoMeanAveragePrecision"]

logger = logging.getLogger(__name__)

Detections = NDArray[np.float64]  # (n, 6) left, top, width, height, score, class

_RECALLS = np.linspace(0, 1, 101)
_AT_IOU50, _ALL_AREAS, _MOST_DETECTIONS = 0, 0, -1  # positions on the axes of COCOeval's precision


class CocoMeanAveragePrecision(Metric):
    """Average precision by pycocotools, equal for any number of ranks (specification, training 13.4 and 13.5).

    ``update`` takes ``(indices, detections)``: the indices of b images in the data set, and for each a tensor (n, 6)
    of x1, y1, x2, y2 in native pixels, score, class. They are rounded like COCO result files (boxes to 3 decimals,
    scores to 5) and kept by image on the host, so an image that comes twice counts once. ``compute`` gathers those of
    all ranks, evaluates on rank 0 and returns a :class:`CocoResult` on every rank. As in COCO, at most the best 100
    detections of a class in an image count.

    Attached under a name, the metric puts the result under that name on ``engine.state``, and its numbers (``mAP@0.5``,
    ``mAP@0.50:0.95``, ``AP75``, ...) into ``engine.state.metrics``, before later listeners of ``EPOCH_COMPLETED`` act.

    Args:
        truth: what to compare with.
    """

    def __init__(self, truth: CocoGroundTruth) -> None:
        self._truth = truth
        self._detections: dict[int, Detections] = {}
        # Without skip_unrolling Ignite would take a list of tensors for a batch that it has to take apart.
        super().__init__(skip_unrolling=True)

    def reset(self) -> None:
        self._detections = {}

    def update(self, output: tuple[Tensor | Sequence[int], Sequence[Tensor]]) -> None:
        indices, detections = output
        if not len(detections):
            return
        rows = torch.cat(list(detections)).detach().to("cpu", torch.float32)  # one transfer a batch
        boxes = np.round(xyxy_to_coco(rows[:, :4]).numpy().astype(np.float64), 3)
        scores = np.round(rows[:, 4:5].numpy().astype(np.float64), 5)
        packed = np.concatenate((boxes, scores, rows[:, 5:6].numpy()), axis=1)
        ends = np.cumsum([len(found) for found in detections])
        for index, found in zip(indices, np.split(packed, ends[:-1]), strict=True):
            self._detections[int(index)] = found

    def compute(self) -> CocoResult:
        merged = self._detections
        if idist.get_world_size() > 1:
            shares = cast("list[dict[int, Detections]]", idist.all_gather(merged))
            merged = {index: found for share in shares for index, found in share.items()}
        return from_rank_zero(lambda: _evaluate(self._truth, merged))

    def completed(self, engine: Engine, name: str) -> None:
        result = self.compute()
        setattr(engine.state, name, result)
        engine.state.metrics.update(result.numbers())


def _evaluate(truth: CocoGroundTruth, detections: Mapping[int, Detections]) -> CocoResult:
    """Runs pycocotools over all images of the ground truth."""
    if not truth.coco.anns:
        logger.warning(
            "evaluation: the %d images have no labelled boxes, so average precision is undefined and mAP is given "
            "as 0; check the labels of the evaluated split",
            len(truth.image_ids),
        )
    found = coco_in_memory(truth.coco.dataset["images"], truth.coco.dataset["categories"], _rows(truth, detections))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation = COCOeval(truth.coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    place = {category: i for i, category in enumerate(sorted(truth.category_ids))}  # COCOeval sorts them
    columns = [place[category] for category in truth.category_ids]
    precision = evaluation.eval["precision"][:, :, columns, _ALL_AREAS, _MOST_DETECTIONS]
    stats = dict(zip(STATISTICS, map(float, evaluation.stats), strict=True))
    return CocoResult(stats, _per_class(truth, precision), precision[_AT_IOU50])


def _rows(truth: CocoGroundTruth, detections: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """Detections as pycocotools wants them; it goes through the images by id, so their order here does not matter."""
    ids = count(1)
    return [
        {
            "id": next(ids),
            "image_id": truth.image_ids[index],
            "category_id": truth.category_ids[int(label)],
            "bbox": [x, y, w, h],
            "area": w * h,
            "score": score,
        }
        for index, found in detections.items()
        for x, y, w, h, score, label in found.tolist()
    ]


def _per_class(truth: CocoGroundTruth, precision: NDArray[np.float64]) -> list[ClassResult]:
    """Numbers by class from the precision at (10 IoUs, 101 recalls, classes)."""
    results = []
    for index, (name, images, instances) in enumerate(zip(truth.names, *truth.count_by_class(), strict=True)):
        curves = precision[:, :, index]
        at50 = curves[_AT_IOU50]
        if (at50 < 0).all():
            results.append(ClassResult(name, images, instances, -1.0, -1.0, -1.0, -1.0, -1.0))
            continue
        f1 = 2 * at50 * _RECALLS / np.maximum(at50 + _RECALLS, np.finfo(np.float64).tiny)
        best = int(f1.argmax())
        accuracy = (curves.mean(), at50.mean(), at50[best], _RECALLS[best], f1[best])
        results.append(ClassResult(name, images, instances, *map(float, accuracy)))
    return results
