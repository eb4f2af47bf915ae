from __future__ import annotations

from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import (
    PredictionImages,
    TensorBoardScalars,
    TrainBatchImages,
    TrainEvents,
    register_train_events,
)


class Writer:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[tuple[str, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        assert img_tensor.shape == (4, 5, 3)
        assert dataformats == "HWC"
        self.images.append((tag, global_step))


def make_engine() -> Engine:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    return engine


def image(*_: Any) -> np.ndarray:
    return np.zeros((4, 5, 3), np.uint8)


def test_scalars_are_the_row_of_the_epoch() -> None:
    writer, engine = Writer(), make_engine()
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: engine.state.history.append({"epoch": engine.state.epoch, "train/iou_loss": 0.5}),
    )
    TensorBoardScalars(writer).attach(engine)
    engine.run([0], max_epochs=2)
    assert writer.scalars == [("train/iou_loss", 0.5, 1), ("train/iou_loss", 0.5, 2)]


def test_first_batch_of_every_epoch() -> None:
    writer, engine = Writer(), make_engine()
    drawn: list[int] = []
    TrainBatchImages(writer, lambda batch: drawn.append(batch) or image()).attach(engine)
    engine.run([7, 8, 9], max_epochs=2)
    assert drawn == [7, 7]
    assert writer.images == [("train_batch", 1), ("train_batch", 2)]


def test_one_iteration_an_epoch_is_its_first() -> None:
    writer, engine = Writer(), make_engine()
    TrainBatchImages(writer, image).attach(engine)
    engine.run([0], max_epochs=3)
    assert [step for _, step in writer.images] == [1, 2, 3]


def test_predictions_after_an_evaluation() -> None:
    writer, engine = Writer(), make_engine()
    PredictionImages(writer, lambda: [image(), image()]).attach(engine)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED(every=2), lambda engine: engine.fire_event(TrainEvents.VALIDATION_COMPLETED)
    )
    engine.run([0], max_epochs=3)
    assert writer.images == [("val_img_1", 2), ("val_img_2", 2)]
