"""Numbers and tables of a COCO evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STATISTICS", "ClassResult", "CocoResult"]

# The 12 COCO numbers in pycocotools' order: name, kind, IoU, area, most detections an image.
_SUMMARY = (
    ("AP", "Average Precision", "0.50:0.95", "all", 100),
    ("AP50", "Average Precision", "0.50", "all", 100),
    ("AP75", "Average Precision", "0.75", "all", 100),
    ("APsmall", "Average Precision", "0.50:0.95", "small", 100),
    ("APmedium", "Average Precision", "0.50:0.95", "medium", 100),
    ("APlarge", "Average Precision", "0.50:0.95", "large", 100),
    ("AR1", "Average Recall", "0.50:0.95", "all", 1),
    ("AR10", "Average Recall", "0.50:0.95", "all", 10),
    ("AR100", "Average Recall", "0.50:0.95", "all", 100),
    ("ARsmall", "Average Recall", "0.50:0.95", "small", 100),
    ("ARmedium", "Average Recall", "0.50:0.95", "medium", 100),
    ("ARlarge", "Average Recall", "0.50:0.95", "large", 100),
)
STATISTICS = tuple(row[0] for row in _SUMMARY)


@dataclass(frozen=True)
class ClassResult:
    """One class. Accuracies are in 0..1, and -1 where there is no ground truth.

    Attributes:
        name: the class.
        images: images with it.
        instances: its boxes.
        ap: average precision over IoU 0.50:0.95.
        ap50: at IoU 0.5.
        precision: at IoU 0.5, at the point of the precision-recall curve where F1 is best.
        recall: there.
        f1: there.
    """

    name: str
    images: int
    instances: int
    ap: float
    ap50: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CocoResult:
    """An evaluation.

    Attributes:
        stats: the 12 COCO numbers by name; -1 where there is no ground truth (of that size).
        per_class: by class, in the order of the data set's names.
        precision_at_iou50: (101, classes) precision at recall 0, 0.01, ..., 1; -1 for a class without ground truth.
    """

    stats: dict[str, float]
    per_class: list[ClassResult]
    precision_at_iou50: NDArray[np.float64]

    @property
    def map50_95(self) -> float:
        """Mean AP over IoU 0.50:0.95; 0 without any ground truth."""
        return max(self.stats["AP"], 0.0)

    @property
    def map50(self) -> float:
        """Mean AP at IoU 0.5; 0 without any ground truth."""
        return max(self.stats["AP50"], 0.0)

    def numbers(self) -> dict[str, float]:
        """``mAP@0.5``, ``mAP@0.50:0.95`` and the 12 COCO numbers."""
        return {"mAP@0.5": self.map50, "mAP@0.50:0.95": self.map50_95, **self.stats}

    def to_json(self) -> dict[str, Any]:
        """Plain values: the numbers, and ``per_class``."""
        rows = [
            {
                "name": row.name,
                "images": row.images,
                "instances": row.instances,
                "precision": row.precision,
                "recall": row.recall,
                "F1": row.f1,
                "AP50": row.ap50,
                "AP": row.ap,
            }
            for row in self.per_class
        ]
        return {**self.numbers(), "per_class": rows}

    def table(self) -> str:
        """The table that pycocotools prints."""
        return "\n".join(
            f" {kind:<18} ({name[:2]}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] = {self.stats[name]:0.3f}"
            for name, kind, iou, area, most in _SUMMARY
        )

    def per_class_table(self) -> str:
        """Images, boxes, best F1 with its precision and recall, and AP of every class; first their means.

        The means are over the classes that have ground truth; images are not added up, since they can have several.
        """
        present = [row for row in self.per_class if row.instances]
        columns = ("precision", "recall", "f1", "ap50", "ap")
        means = [float(np.mean([getattr(row, column) for row in present])) if present else -1.0 for column in columns]
        lines = [("all classes", "", str(sum(row.instances for row in present)), *map(_decimals, means))]
        for row in self.per_class:
            numbers = (_decimals(getattr(row, column)) for column in columns)
            lines.append((row.name, str(row.images), str(row.instances), *numbers))
        header = ("class", "images", "instances", "P", "R", "F1", "AP50", "AP50:95")
        width = max(len(line[0]) for line in (header, *lines))
        return "\n".join(
            f"{name:<{width}}  {images:>7}  {instances:>9}" + "".join(f"  {number:>7}" for number in numbers)
            for name, images, instances, *numbers in (header, *lines)
        )


def _decimals(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "-"
