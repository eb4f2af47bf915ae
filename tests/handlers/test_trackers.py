from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import Tracker, TrackerError, register_train_events

PARAMETERS = {"model": {"type": "tiny", "head": {"strides": [8, 16]}}, "solver": {"lr0": 0.01}, "weights": None}
FLAT = {"model.type": "tiny", "model.head.strides": "[8, 16]", "solver.lr0": 0.01, "weights": "None"}
ROW = {"train/iou_loss": 0.5, "val/mAP@0.5": 0.25}


def run(tracker: Tracker, epochs: int = 2) -> None:
    engine = Engine(lambda engine, batch: None)
    register_train_events(engine)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: engine.state.history.append({"epoch": engine.state.epoch, **ROW}),
    )
    tracker.attach(engine)
    try:
        engine.run([0], max_epochs=epochs)
    finally:
        tracker.close()


class Calls(list[Any]):
    """Writes down what a fake tracker is called with."""

    def of(self, name: str) -> list[Any]:
        return [arguments for called, arguments in self if called == name]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    module: Any = ModuleType("wandb")

    def init(**settings: Any) -> None:
        calls.append(("init", settings))
        module.run = SimpleNamespace(id=settings["id"] or "new")

    module.init = init
    module.config = SimpleNamespace(update=lambda values: calls.append(("parameters", values)))
    module.log = lambda values, step: calls.append(("log", (values, step)))
    module.finish = lambda: calls.append(("finish", None))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_gets_the_configuration_once_and_every_row(wandb: ModuleType, calls: Calls) -> None:
    tracker = Tracker("wandb", PARAMETERS, run_name="exp")
    assert not calls  # nothing has run yet
    run(tracker)
    assert calls.of("init") == [{"project": "yolov6-ignite", "name": "exp", "id": None, "resume": "allow"}]
    assert calls.of("parameters") == [FLAT]
    assert calls.of("log") == [(ROW, 1), (ROW, 2)]
    assert calls[-1] == ("finish", None)
    assert tracker.state_dict() == {"run_id": "new"}


def test_a_resumed_run_continues_the_trackers_run(wandb: ModuleType, calls: Calls) -> None:
    tracker = Tracker("wandb", PARAMETERS, run_name="exp")
    tracker.load_state_dict({"run_id": "before"})
    run(tracker)
    assert [settings["id"] for settings in calls.of("init")] == ["before"]
    assert calls.of("parameters") == []
    assert tracker.state_dict() == {"run_id": "before"}


def test_the_trackers_own_variable_names_the_project(
    wandb: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run(Tracker("wandb", PARAMETERS, run_name="exp"))
    assert calls.of("init")[0]["project"] == "mine"


def test_a_row_that_cannot_be_sent_is_a_warning(wandb: Any, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(values: Any, step: int) -> None:
        raise ConnectionError("no network")

    wandb.log = refuse
    with caplog.at_level("WARNING", logger="yolov6_ignite"):
        run(Tracker("wandb", PARAMETERS, run_name="exp"))
    assert [record.getMessage() for record in caplog.records] == [
        f"epoch {epoch} could not be sent to wandb (no network); metrics.csv has it" for epoch in (1, 2)
    ]
    assert calls[-1] == ("finish", None)


def test_a_tracker_that_cannot_begin_ends_the_run(wandb: Any) -> None:
    def refuse(**settings: Any) -> None:
        raise PermissionError("no key")

    wandb.init = refuse
    with pytest.raises(TrackerError, match=r"wandb cannot begin \(no key\)"):
        run(Tracker("wandb", PARAMETERS, run_name="exp"))


def test_one_that_is_not_attached_stays_silent(wandb: ModuleType, calls: Calls) -> None:
    Tracker("wandb", PARAMETERS, run_name="exp").close()
    assert not calls


def test_clearml(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    class Task:
        TaskTypes = SimpleNamespace(training="training")
        id = "task"

        @staticmethod
        def current_task() -> None:
            return None

        @classmethod
        def init(cls, **settings: Any) -> Task:
            calls.append(("init", settings))
            return cls()

        def get_logger(self) -> Any:
            return SimpleNamespace(
                report_scalar=lambda **scalar: calls.append(("scalar", scalar)),
                flush=lambda: calls.append(("flush", 0)),
            )

        def connect(self, parameters: Any) -> None:
            calls.append(("parameters", parameters))

        def close(self) -> None:
            calls.append(("close", None))

    name = "clearml.binding.frameworks.tensorflow_bind"
    for parent in ("clearml", "clearml.binding", "clearml.binding.frameworks", name):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setattr(sys.modules["clearml"], "Task", Task, raising=False)
    monkeypatch.setattr(sys.modules[name], "WeightsGradientHistHelper", lambda **_: None, raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("CLEARML_PROJECT", raising=False)

    tracker = Tracker("clearml", PARAMETERS, run_name="exp")
    run(tracker, epochs=1)
    settings = calls.of("init")[0]
    assert (settings["project_name"], settings["task_name"]) == ("yolov6-ignite", "exp")
    assert settings["reuse_last_task_id"] is False
    assert settings["continue_last_task"] is False
    assert calls.of("parameters") == [FLAT]
    assert calls.of("scalar") == [
        {"title": "train", "series": "iou_loss", "value": 0.5, "iteration": 1},
        {"title": "val", "series": "mAP@0.5", "value": 0.25, "iteration": 1},
    ]
    assert calls[-1] == ("close", None)

    resumed = Tracker("clearml", PARAMETERS, run_name="exp")
    resumed.load_state_dict(tracker.state_dict())
    run(resumed, epochs=1)
    settings = calls.of("init")[1]
    assert settings["reuse_last_task_id"] == "task"
    assert settings["continue_last_task"] == 0
    assert settings["continue_last_task"] is not False  # which would overwrite the task
    assert len(calls.of("parameters")) == 1


def test_neptune(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    class Experiment:
        def __setitem__(self, key: str, value: Any) -> None:
            calls.append(("set", (key, value)))

        def __getitem__(self, key: str) -> Any:
            return SimpleNamespace(
                fetch=lambda: "NEP-1", append=lambda value, step: calls.append(("append", (key, value, step)))
            )

        def stop(self) -> None:
            calls.append(("stop", None))

    def init_run(**settings: Any) -> Experiment:
        calls.append(("init", settings))
        return Experiment()

    module: Any = ModuleType("neptune")
    module.init_run = init_run
    monkeypatch.setitem(sys.modules, "neptune", module)

    tracker = Tracker("neptune", PARAMETERS, run_name="exp")
    run(tracker, epochs=1)
    assert calls.of("init")[0] == {"api_token": None, "project": None, "name": "exp"}
    assert ("parameters", FLAT) in calls.of("set")
    assert calls.of("append") == [("train/iou_loss", 0.5, 1), ("val/mAP@0.5", 0.25, 1)]
    assert calls[-1] == ("stop", None)

    resumed = Tracker("neptune", PARAMETERS, run_name="exp")
    resumed.load_state_dict(tracker.state_dict())
    run(resumed, epochs=1)
    assert calls.of("init")[1] == {"api_token": None, "project": None, "with_id": "NEP-1"}


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.mark.slow  # mlflow comes with the dev extra only
def test_mlflow_for_real(mlflow_store: Any) -> None:
    many = {f"key{number}": number for number in range(150)}  # more than it takes in a call
    tracker = Tracker("mlflow", {**PARAMETERS, "many": many}, run_name="exp")
    run(tracker)
    resumed = Tracker("mlflow", {"solver": {"lr0": 0.02}}, run_name="other")
    resumed.load_state_dict(tracker.state_dict())
    run(resumed, epochs=3)
    assert mlflow_store.active_run() is None

    client = mlflow_store.MlflowClient()
    assert len(client.search_runs(["0"])) == 1
    stored = client.get_run(tracker.run_id)
    assert stored.info.run_name == "exp"
    assert stored.info.status == "FINISHED"
    assert stored.data.params["model.head.strides"] == "[8, 16]"
    assert stored.data.params["solver.lr0"] == "0.01"
    assert len(stored.data.params) == 154
    assert stored.data.metrics == {"train/iou_loss": 0.5, "val/mAP_0.5": 0.25}
    assert [m.step for m in client.get_metric_history(tracker.run_id, "val/mAP_0.5")] == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "clearml", "neptune"])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'yolov6-ignite\[{name}\]'"):
        Tracker(name, PARAMETERS, run_name="exp")


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ValueError, match="one of mlflow, wandb, clearml, neptune"):
        Tracker("excel", PARAMETERS, run_name="exp")
