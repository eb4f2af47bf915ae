"""The trainer and evaluator engines: their step functions, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from yolov6_ignite.config import EvalConfig
from yolov6_ignite.data import Batch
from yolov6_ignite.distributed import memory_format
from yolov6_ignite.handlers import TrainEvents, register_train_events, train_state
from yolov6_ignite.metrics import non_max_suppression, rescale_to_native
from yolov6_ignite.models import Detector, DetectorOutput

__all__ = ["create_evaluator", "create_trainer", "no_teacher", "to_model_input"]


class Loss(Protocol):
    """What :func:`yolov6_ignite.build_loss` returns."""

    def __call__(
        self,
        output: Any,
        targets: Tensor,
        *,
        epoch: int,
        max_epochs: int,
        image_size: tuple[int, int],
        teacher: DetectorOutput | None = None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]: ...


def to_model_input(images: Tensor, device: torch.device) -> Tensor:
    """Moves uint8 images (batch, 3, height, width) to the device, as floats in [0, 1]."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=memory_format(device)).div_(255)


def no_teacher(images: Tensor) -> None:
    """What a loss that does not distil compares with."""


def create_trainer(
    model: nn.Module,
    loss: Loss,
    scaler: torch.amp.GradScaler,
    *,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
    teacher: Callable[[Tensor], DetectorOutput | None] = no_teacher,
) -> Engine:
    """An engine whose step is forward, loss and backward; everything else is attached to it.

    Args:
        model: in train mode, wrapped for several devices or not.
        loss: see :func:`yolov6_ignite.build_loss`; its parts sum to the objective over the ranks.
        scaler: gradient scaler, disabled where the precision needs none.
        device: where the model is.
        autocast_dtype: bfloat16 or float16, None for fp32.
        teacher: gives the predictions that a distilling loss compares with.

    Returns:
        An engine over :class:`yolov6_ignite.data.Batch` whose output is the detached loss terms by name. During
        ``BACKWARD_COMPLETED`` what the model returned is ``engine.state.prediction``.
    """
    undo_averaging = idist.get_world_size()  # DistributedDataParallel averages what the objective sums

    def step(engine: Engine, batch: Batch) -> Mapping[str, Tensor]:
        state = train_state(engine)
        images = to_model_input(batch.images, device)
        with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            output = model(images)
            taught = teacher(images)
        total, items = loss(
            output,
            batch.targets,
            epoch=state.epoch - 1,
            max_epochs=state.max_epochs,
            image_size=(images.shape[-2], images.shape[-1]),
            teacher=taught,
        )
        scaler.scale(total * undo_averaging).backward()
        state.prediction = output
        engine.fire_event(TrainEvents.BACKWARD_COMPLETED)
        state.prediction = None
        return items

    trainer = Engine(step)
    register_train_events(trainer)
    return trainer


def create_evaluator(
    get_model: Callable[[], nn.Module],
    settings: EvalConfig,
    *,
    device: torch.device,
    seconds: dict[str, float] | None = None,
    observe: Callable[[DetectorOutput, Batch], None] | None = None,
) -> Engine:
    """An engine whose step predicts and brings the detections back to the images' own pixels.

    Args:
        get_model: gives the model to evaluate; in eval mode, fp32.
        settings: thresholds.
        device: where the model is.
        seconds: the seconds spent are added to it by stage (preprocess, inference, nms), which waits for the device.
        observe: is given every batch and the raw predictions that its detections come from, in inference mode; the
            model must then be a :class:`yolov6_ignite.models.Detector`.

    Returns:
        An engine over :class:`yolov6_ignite.data.Batch` whose output is ``(indices, detections)``: the images'
        indices in the data set, and for each image a tensor (n, 6) of x1, y1, x2, y2 in native pixels, score, class.
    """

    def now() -> float:
        if seconds is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    @torch.inference_mode()
    def step(engine: Engine, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        started = now()
        images = to_model_input(batch.images, device)
        moved = now()
        if observe is None:
            predictions = get_model()(images)
        else:
            predictions, output = cast(Detector, get_model()).detect_with_output(images)
        predicted = now()
        kept = non_max_suppression(
            predictions,
            conf_threshold=settings.conf_threshold,
            iou_threshold=settings.iou_threshold,
            max_detections=settings.max_detections,
        )
        selected = now()
        if seconds is not None:
            for stage, spent in (
                ("preprocess", moved - started),
                ("inference", predicted - moved),
                ("nms", selected - predicted),
            ):
                seconds[stage] = seconds.get(stage, 0.0) + spent
        detections = []
        for found, letterbox in zip(kept, batch.letterbox, strict=True):
            found = found.cpu()
            detections.append(torch.cat((rescale_to_native(found[:, :4], letterbox), found[:, 4:]), 1))
        if observe is not None:
            observe(output, batch)
        return batch.indices, detections

    return Engine(step)
