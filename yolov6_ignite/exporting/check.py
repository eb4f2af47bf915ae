"""Does an exported file compute what the model does?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from yolov6_ignite.errors import UserError
from yolov6_ignite.exporting.graphs import EndToEndGraph, ExportGraph, RawLevelGraph
from yolov6_ignite.metrics import non_max_suppression
from yolov6_ignite.models.anchors import anchor_points, distances_to_boxes

__all__ = [
    "QUANTIZED",
    "QUANTIZED_FAST",
    "Agreement",
    "ExportMismatchError",
    "Tolerance",
    "compare",
    "quantized_tolerance",
]


class ExportMismatchError(UserError):
    """An exported file does not compute what its model does (exit code 1)."""

    exit_code = 1


@dataclass(frozen=True)
class Tolerance:
    """What is rounding: all differences are small, or they are noise far below the signal.

    The second is for networks that amplify rounding, as untrained ones do: there torch in fp32 is no closer to the
    same network in float64.

    Attributes:
        difference: largest of boxes, in parts of the image's longer side, and of probabilities.
        sqnr_db: signal to noise of both, in decibels.
        of_logits: whether the noise of scores is that of their logits. What rounding to integers does to a logit is
            about the same whatever its value, so the noise of probabilities near 0, as nearly all are, would be as
            large as they are, and tell nothing of those that are detections.
    """

    difference: float
    sqnr_db: float
    of_logits: bool = False

    def __str__(self) -> str:
        return f"{self.difference:.0e}, or {self.sqnr_db:.0f} dB"


FP32 = Tolerance(1e-4, 100)
HALF = Tolerance(2e-2, 50)  # 11 bits, through a hundred layers
# A sum that is rounded otherwise in the 24th bit is now and then another integer, which all that follows reads.
QUANTIZED = Tolerance(1e-3, 40, of_logits=True)
# With sums in integers and biases too, or half precision around them, that happens more often.
QUANTIZED_FAST = Tolerance(1e-3, 30, of_logits=True)
NEARER_DB = 3.0  # half the noise

LOGIT_EPSILON = 1e-6  # nearer to 0 or 1, fp32 does not tell logits apart


@dataclass(frozen=True)
class Agreement:
    """How a file's predictions compare with the model's in fp32.

    Attributes:
        images: number of images compared.
        batch_sizes: that were run.
        boxes: largest difference, in parts of the image's longer side.
        scores: largest difference of a probability.
        boxes_db: signal to noise of the boxes, in decibels; infinite for equal ones.
        scores_db: likewise of the class probabilities, or their logits if the tolerance says so.
        detections: number compared after suppression, for a graph that has it.
        tolerance: for the differences.
    """

    images: int
    batch_sizes: tuple[int, ...]
    boxes: float
    scores: float
    boxes_db: float
    scores_db: float
    detections: int | None
    tolerance: Tolerance

    @property
    def good(self) -> bool:
        """Whether the differences are within tolerance; those that are not finite never are."""
        if max(self.boxes, self.scores) <= self.tolerance.difference:
            return True
        finite = math.isfinite(max(self.boxes, self.scores))  # a logit is, also of a score that is not
        return finite and min(self.boxes_db, self.scores_db) >= self.tolerance.sqnr_db

    def __str__(self) -> str:
        text = (
            f"{self.images} images in batches of {', '.join(map(str, self.batch_sizes))}: "
            f"boxes differ by at most {self.boxes:.1e} of the image's side ({self.boxes_db:.1f} dB SQNR), "
            f"scores by {self.scores:.1e} ({self.scores_db:.1f} dB{' of logits' if self.tolerance.of_logits else ''})"
        )
        if self.detections is not None:
            text += f"; all {self.detections} detections are those of the library"
        return text


def quantized_tolerance(from_float: Agreement) -> Tolerance:
    """For a quantised file as it stands: :data:`QUANTIZED`, or less in a network that amplifies rounding.

    There it must still be nearer to the quantised model than floating point is, which a file without the quantisers
    would equal.

    Args:
        from_float: of the float model with the quantised one, on the same images.
    """
    quantisation_db = min(from_float.boxes_db, from_float.scores_db)
    bar_db = min(QUANTIZED.sqnr_db, max(QUANTIZED_FAST.sqnr_db, quantisation_db + NEARER_DB))
    return replace(QUANTIZED, sqnr_db=bar_db)


def compare(
    graph: ExportGraph,
    reference: ExportGraph,
    run: Callable[[Tensor], Sequence[Tensor]],
    batches: Sequence[Tensor],
    *,
    half: bool = False,
    tolerance: Tolerance | None = None,
) -> Agreement:
    """Runs a file and the model on the same images.

    Args:
        graph: what was exported.
        reference: the same model in fp32, without preprocessing and suppression; a quantised one quantises.
        run: the file, from images as it takes them to its outputs; for :class:`EndToEndGraph` with the predictions,
            for :class:`TensorRTGraph` only what goes into its suppression.
        batches: RGB images (batch, 3, height, width) in uint8.
        half: the file has weights in half precision.
        tolerance: None is that of the precision.

    Raises:
        ExportMismatchError: the file fails, gives other shapes, or selects other detections than the library does
            from the file's own predictions.
    """
    tolerance = tolerance or (HALF if half else FP32)
    boxes, scores, logits = _Difference(), _Difference(), _Difference()
    detections = 0
    for images in batches:
        side = max(images.shape[-2:])
        floats = images.float() / 255
        with torch.no_grad():
            expected = reference.predictions(reference(floats))
        try:
            outputs = run(images.flip(1).contiguous() if graph.preprocess else floats.to(graph.input_dtype))
        except Exception as error:  # runtimes have no common class of their errors
            raise ExportMismatchError(
                f"it fails on images of {tuple(images.shape)}: {str(error).splitlines()[0]}"
            ) from error
        found = graph.predictions(outputs)
        if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
            raise ExportMismatchError(f"it gives other shapes than the model for images of {tuple(images.shape)}")
        boxes.update(*(_boxes(graph, images, values) / side for values in (expected[0], found[0])))
        scores.update(expected[1], found[1])
        logits.update(_logits(expected[1]), _logits(found[1]))
        if isinstance(graph, EndToEndGraph):
            detections += _require_detections(graph, outputs, side)
    return Agreement(
        images=sum(map(len, batches)),
        batch_sizes=tuple(sorted({len(images) for images in batches})),
        boxes=boxes.largest,
        scores=scores.largest,
        boxes_db=boxes.sqnr_db,
        scores_db=(logits if tolerance.of_logits else scores).sqnr_db,
        detections=detections if isinstance(graph, EndToEndGraph) else None,
        tolerance=tolerance,
    )


def _boxes(graph: ExportGraph, images: Tensor, values: Tensor) -> Tensor:
    """Boxes in pixels, also of raw levels, so that the same error is as much noise in every kind of file."""
    if not isinstance(graph, RawLevelGraph):
        return values
    height, width = images.shape[-2:]
    strides = graph.model.strides
    points, _ = anchor_points([(height // stride, width // stride) for stride in strides], strides)
    return distances_to_boxes(values, points)


def _logits(probabilities: Tensor) -> Tensor:
    return probabilities.float().logit(LOGIT_EPSILON)


class _Difference:
    """The largest difference, and signal over noise."""

    def __init__(self) -> None:
        self.largest = self._signal = self._noise = 0.0

    def update(self, expected: Tensor, found: Tensor) -> None:
        difference = found.double() - expected.double()
        largest = difference.abs().max().item()
        self.largest = max(self.largest, largest) if math.isfinite(largest) else math.inf
        self._signal += expected.double().square().sum().item()
        self._noise += difference.square().sum().item()

    @property
    def sqnr_db(self) -> float:
        if self._noise == 0:
            return math.inf
        ratio = self._signal / self._noise
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf  # also of differences that are not finite


def _require_detections(graph: EndToEndGraph, outputs: Sequence[Tensor], side: int) -> int:
    """Compares a file's detections with the library's from the same predictions; returns their number."""
    counts, boxes, scores, classes, predictions = outputs
    wanted = non_max_suppression(
        predictions,
        conf_threshold=graph.thresholds.conf,
        iou_threshold=graph.thresholds.iou,
        max_detections=graph.thresholds.max_detections,
    )
    for image, rows in enumerate(wanted):
        count = int(counts[image])
        same = count == len(rows)
        if same:
            same = (
                torch.equal(classes[image, :count].to(rows), rows[:, 5])
                and torch.allclose(scores[image, :count], rows[:, 4], rtol=0, atol=1e-6)
                and torch.allclose(boxes[image, :count], rows[:, :4], rtol=1e-6, atol=1e-6 * side)
            )
        if not same:
            raise ExportMismatchError(
                f"its {count} detections in an image are not the {len(rows)} that the library selects"
            )
    return sum(map(len, wanted))
