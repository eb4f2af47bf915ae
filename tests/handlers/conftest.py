"""A toy run: two linear layers with batch norm, on any handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from yolov6_ignite.handlers import TrainEvents, register_train_events


class Toy:
    """A model, its optimizer and an engine whose step fires what the real one does."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.engine = Engine(self._step)
        register_train_events(self.engine)

    def _step(self, engine: Engine, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = self.model(batch).square().mean()
        loss.backward()
        engine.fire_event(TrainEvents.BACKWARD_COMPLETED)
        return {"iou": loss.detach(), "cls": 2 * loss.detach()}

    def batches(self, count: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(2, 1, 4, 4, generator=generator) for _ in range(count)]


@pytest.fixture
def make_toy() -> Callable[[], Toy]:
    return Toy


@pytest.fixture
def toy() -> Any:
    return Toy()
