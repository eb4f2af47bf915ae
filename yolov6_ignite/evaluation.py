"""Evaluating a model on a data set: loader, ground truth, metric and engine in one object."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import cv2
import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.data import DatasetFile, DatasetIndex, build_eval_loader
from yolov6_ignite.data.image import BadImageError, read_image
from yolov6_ignite.engine import create_evaluator
from yolov6_ignite.metrics import CocoGroundTruth, CocoMeanAveragePrecision, CocoResult
from yolov6_ignite.plots import draw_detections, precision_recall_curve, save_image, top_detections
from yolov6_ignite.validation_loss import ValidationLoss

__all__ = ["CocoEvaluation"]

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 8


class CocoEvaluation:
    """Evaluates models on one split, shared between the ranks, with the same result for any number of them.

    Args:
        index: the split.
        dataset: the data set file that it is of.
        config: sizes and thresholds of its ``eval`` section.
        device: where the models are.
        seconds: the seconds spent are added to it by stage.

    Attributes:
        engine: the Ignite evaluator.
        result: of the last evaluation.
        losses: means of the loss terms in the last evaluation; empty without ``eval.loss``.
    """

    def __init__(
        self,
        index: DatasetIndex,
        dataset: DatasetFile,
        config: Config,
        *,
        device: torch.device,
        seconds: dict[str, float] | None = None,
    ) -> None:
        settings = config.eval
        self.names = dataset.names
        self.verbose = settings.verbose
        self.paths = index.paths
        self.loader = build_eval_loader(
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
        if dataset.annotations is not None:
            stems = [Path(str(path)).stem for path in index.paths]
            truth = CocoGroundTruth.from_json(dataset.annotations, stems, dataset.names)
        else:
            truth = CocoGroundTruth.from_index(index.sizes, index.labels, dataset.names)
        self.result: CocoResult | None = None
        self.losses: dict[str, float] = {}
        self._model: nn.Module | None = None
        self._first_batch: tuple[Tensor, list[Tensor]] | None = None
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
        self.engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: self.metric.update(engine.state.output)
        )

    def __call__(self, model: nn.Module) -> CocoResult:
        """Evaluates a model (fp32; its mode is restored); the same result on every rank."""
        was_training = model.training
        self._model = model.eval()
        self.metric.reset()
        if self._loss is not None:
            self._loss.reset()
        self.engine.run(self.loader)
        model.train(was_training)
        self.result = self.metric.compute()
        self.losses = {} if self._loss is None else self._loss.compute()
        self.engine.state.metrics["coco"] = self.result
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
        for index, detections in list(zip(*self._first_batch, strict=True))[:SHOWN_IMAGES]:
            try:
                image = read_image(str(self.paths[int(index)]))
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

    def _current_model(self) -> nn.Module:
        assert self._model is not None
        return self._model

    def _keep_first_batch(self, engine: Engine) -> None:
        self._first_batch = cast(tuple[Tensor, list[Tensor]], engine.state.output)
