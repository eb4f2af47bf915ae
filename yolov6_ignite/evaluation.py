"""Evaluating a model on a data set: loader, ground truth, metric and engine in one object."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.data import Batch, DatasetFile, DatasetIndex, build_eval_loader, index_split, load_dataset_file
from yolov6_ignite.data.image import BadImageError, read_image
from yolov6_ignite.distributed import from_rank_zero, resolve_device
from yolov6_ignite.engine import create_evaluator
from yolov6_ignite.errors import ConfigError, DatasetError
from yolov6_ignite.metrics import CocoGroundTruth, CocoMeanAveragePrecision, CocoResult
from yolov6_ignite.plots import draw_detections, precision_recall_curve, save_image, top_detections
from yolov6_ignite.validation_loss import ValidationLoss

__all__ = ["CocoEvaluation", "build_evaluation"]

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 8


class CocoEvaluation:
    """Evaluates models on one split, shared between the ranks, with the same result for any number of them.

    Args:
        index: the split; None where ``loader`` says all.
        dataset: the data set file that it is of.
        config: sizes and thresholds of its ``eval`` section.
        device: where the models are.
        loader: yields the :class:`yolov6_ignite.data.Batch` es of a split of one's own, this rank's share of them.
        seconds: the seconds spent are added to it by stage.

    Attributes:
        engine: the Ignite evaluator. Before the listeners of its ``EPOCH_COMPLETED`` and ``COMPLETED``,
            ``engine.state.metrics`` holds the numbers by name (``mAP@0.50:0.95``, ..., ``iou_loss`` with
            ``eval.loss``) and ``engine.state.coco`` the whole :class:`~yolov6_ignite.metrics.CocoResult`.
        result: of the last evaluation.
        losses: means of the loss terms in the last evaluation; empty without ``eval.loss``.
    """

    def __init__(
        self,
        index: DatasetIndex | None,
        dataset: DatasetFile,
        config: Config,
        *,
        device: torch.device,
        loader: Any = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        settings = config.eval
        self.names = dataset.names
        self.verbose = settings.verbose
        if loader is None:
            assert index is not None
            loader = build_eval_loader(
                index,
                image_size=settings.image_size or config.data.image_size,
                batch_size=settings.batch_size,
                stride=max(config.model.head.strides),
                rect=settings.rect,
                pad=0.5 if settings.rect else 0.0,
                shrink_px=settings.shrink_px,
                on_bad_image=config.data.on_bad_image,
                workers=config.data.workers,
                rank=idist.get_rank(),
                world_size=idist.get_world_size(),
                pin_memory=device.type == "cuda",
            )
        self.loader = loader
        if index is None:
            truth = self._truth_of_loader()
        elif dataset.annotations is not None:
            stems = [Path(str(path)).stem for path in index.paths]
            truth = CocoGroundTruth.from_json(dataset.annotations, stems, dataset.names)
        else:
            truth = CocoGroundTruth.from_index(index.sizes, index.labels, dataset.names)
        self.result: CocoResult | None = None
        self.losses: dict[str, float] = {}
        self._model: nn.Module | None = None
        self._first_batch: tuple[list[str], list[Tensor]] | None = None
        self.metric = CocoMeanAveragePrecision(truth)
        self._loss: ValidationLoss | None = None
        if settings.loss:
            self._loss = ValidationLoss(config, len(dataset.names))
        self.engine = create_evaluator(
            self._current_model,
            settings,
            device=device,
            seconds=seconds,
            observe=None if self._loss is None else self._loss.update,
        )
        self.engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._keep_first_batch)
        self.metric.attach(self.engine, "coco")
        if self._loss is not None:
            self.engine.add_event_handler(Events.EPOCH_STARTED, self._loss.reset)
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._add_losses)

    def __call__(self, model: nn.Module) -> CocoResult:
        """Evaluates a model (fp32; its mode is restored); the same result on every rank."""
        training = {module: module.training for module in model.modules()}  # frozen batch norms stay in eval mode
        self._model = model.eval()
        try:
            self.engine.run(self.loader)
        finally:
            for module, mode in training.items():
                module.training = mode
        self.result = cast(CocoResult, self.engine.state.coco)  # type: ignore[attr-defined]
        if self.verbose and idist.get_rank() == 0:
            logger.info("%s\n%s", self.result.table(), self.result.per_class_table())
        return self.result

    def scalars(self) -> dict[str, float]:
        """The last result and losses as numbers by name, as metrics.csv has them."""
        assert self.result is not None
        numbers = self.result.to_json()
        kept = ("mAP@0.5", "mAP@0.50:0.95", "AP75", "APsmall", "APmedium", "APlarge", "AR100")
        accuracy = {f"val/{name}": float(numbers[name]) for name in kept}
        return accuracy | {f"val/{name}_loss": value for name, value in self.losses.items()}

    def prediction_images(self) -> list[np.ndarray]:
        """The first images with their best predictions (specification, training 9), RGB."""
        if self._first_batch is None:
            return []
        images = []
        for path, detections in list(zip(*self._first_batch, strict=True))[:SHOWN_IMAGES]:
            try:
                image = read_image(path)
            except BadImageError:  # since the index was made
                continue
            shown = top_detections(detections)
            boxes, scores, classes = shown[:, :4], shown[:, 4], shown[:, 5]
            images.append(draw_detections(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), boxes, scores, classes, self.names))
        return images

    def draw_plots(self, folder: Path) -> None:
        """Writes ``precision_recall.png`` and ``prediction_N.jpg`` of the last evaluation."""
        assert self.result is not None
        save_image(folder / "precision_recall.png", precision_recall_curve(self.result))
        for number, image in enumerate(self.prediction_images(), start=1):
            save_image(folder / f"prediction_{number}.jpg", image)

    def close(self) -> None:
        """Ends the loader's workers."""
        if hasattr(self.loader, "close"):
            self.loader.close()

    def _add_losses(self, engine: Engine) -> None:
        assert self._loss is not None
        self.losses = self._loss.compute()
        engine.state.metrics.update({f"{name}_loss": value for name, value in self.losses.items()})

    def _truth_of_loader(self) -> CocoGroundTruth:
        boxes = {index: rows for batch in self.loader for index, rows in _native_boxes(batch).items()}
        if idist.get_world_size() > 1:
            shares = cast("list[dict[int, list[tuple[int, list[float]]]]]", idist.all_gather(boxes))
            boxes = {index: rows for share in shares for index, rows in share.items()}
        if not boxes or sorted(boxes) != list(range(len(boxes))):
            raise DatasetError(
                f"val_loader: the indices of its batches must be 0 to n - 1 for n images; there are {len(boxes)}, from "
                f"{min(boxes, default='none')} to {max(boxes, default='none')}"
            )
        return CocoGroundTruth.from_boxes(boxes, self.names)

    def _current_model(self) -> nn.Module:
        assert self._model is not None
        return self._model

    def _keep_first_batch(self, engine: Engine) -> None:
        _, detections = cast(tuple[Tensor, list[Tensor]], engine.state.output)
        self._first_batch = cast(Batch, engine.state.batch).paths, detections


def build_evaluation(
    config: Config, dataset: str | Path | None = None, *, split: Literal["train", "val", "test"] = "val"
) -> CocoEvaluation:
    """An evaluation of any model on any data set, called with the model; on several ranks every rank calls it.

    Args:
        config: its ``eval`` section; ``train.device`` says where the models are.
        dataset: a data set file; None: ``data.dataset``.
        split: which of its splits.

    Raises:
        ConfigError: there is no data set.
        DatasetError: it cannot be used.
    """
    name = dataset or config.data.dataset
    if name is None:
        raise ConfigError("data.dataset is not set: give a data set file to evaluate on")
    file: DatasetFile = from_rank_zero(lambda: load_dataset_file(name, splits=[split]))
    if split != "val":
        file = dataclasses.replace(file, annotations=None)  # anno_path is of the validation images
    index = from_rank_zero(lambda: index_split(getattr(file, split), file.names, config.data))
    return CocoEvaluation(index, file, config, device=resolve_device(config.train.device))


def _native_boxes(batch: Batch) -> dict[int, list[tuple[int, list[float]]]]:
    """Targets by image index: class, and left, top, width and height in the images' own pixels."""
    height, width = batch.images.shape[-2:]
    boxes: dict[int, list[tuple[int, list[float]]]] = {}
    for place, index in enumerate(batch.indices.tolist()):
        _, _, gain_h, gain_w, top, left = batch.letterbox[place].double().tolist()
        if not (gain_h and gain_w):
            raise DatasetError("val_loader: its batches need letterbox (original size, gains, padding in pixels)")
        boxes[index] = []
        for label, cx, cy, w, h in batch.targets[batch.targets[:, 0] == place, 1:].double().tolist():
            size = w * width / gain_w, h * height / gain_h
            corner = (cx * width - left) / gain_w - size[0] / 2, (cy * height - top) / gain_h - size[1] / 2
            boxes[index].append((int(label), [*corner, *size]))
    return boxes
