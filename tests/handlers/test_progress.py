from __future__ import annotations

import io

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import Progress, register_train_events


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream: io.StringIO, epochs: int = 2) -> list[int]:
    reads: list[int] = []
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    engine.state.running_losses = lambda: reads.append(engine.state.iteration) or {"iou": 0.123456}
    row = {"epoch": 1, "train/iou_loss": 0.5, "val/mAP@0.5": 0.25, "val/mAP@0.50:0.95": 0.125, "x/lr1": 0.01}
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.history.append(row))
    Progress(interval=2, stream=stream).attach(engine)
    engine.run(range(4), max_epochs=epochs)
    return reads


def test_a_file_gets_no_bar_and_costs_no_read(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level("INFO", "yolov6_ignite"):
        assert run(stream) == []
    assert stream.getvalue() == ""
    assert "epoch 2/2 | iou_loss 0.5000 | mAP@0.5 0.2500 | mAP@0.50:0.95 0.1250 | lr 0.01000" in caplog.text
    assert "training took 0.000 hours" in caplog.text


def test_a_terminal_gets_a_bar_that_reads_at_the_interval() -> None:
    stream = Terminal()
    assert run(stream) == [2, 4, 6, 8]
    assert "epoch 1/2" in stream.getvalue()
    assert "iou=0.1235" in stream.getvalue()
