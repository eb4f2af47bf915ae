"""Experiment trackers: a run's configuration and its numbers sent to MLflow, Weights & Biases, ClearML or Neptune."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ignite.engine import Engine, Events
from ignite.handlers.clearml_logger import ClearMLLogger
from ignite.handlers.mlflow_logger import MLflowLogger
from ignite.handlers.neptune_logger import NeptuneLogger
from ignite.handlers.wandb_logger import WandBLogger
from yolov6_ignite.handlers.events import train_state

__all__ = ["Tracker", "TrackerError"]

logger = logging.getLogger(__name__)

PROJECT = "yolov6-ignite"
MLFLOW_PARAMETERS_A_CALL = 100


class TrackerError(RuntimeError):
    """A tracker cannot begin."""


class Tracker:
    """Sends the configuration once, and the row of every epoch under the names of ``metrics.csv``, to a tracker.

    Acts on ``STARTED`` and, behind :class:`History`, on ``EPOCH_COMPLETED``; on rank 0. Where to send and as whom is
    said by the tracker's own environment variables (``MLFLOW_TRACKING_URI``, ``WANDB_PROJECT``, ``CLEARML_PROJECT``,
    ``NEPTUNE_PROJECT``, ...). A row that cannot be sent is a warning; the run goes on. :meth:`close` when the run is
    over, however it ended. State: the tracker's id of the run, so that a resumed run continues it.

    Args:
        name: ``mlflow``, ``wandb``, ``clearml`` or ``neptune``.
        parameters: the configuration; sections are joined with dots.
        run_name: what the tracker calls the run.

    Raises:
        ValueError: there is no such tracker.
        ImportError: its package cannot be imported; the message says how to install it.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], *, run_name: str) -> None:
        if name not in _SERVICES:
            raise ValueError(f"tracker {name!r} is not one of {', '.join(_SERVICES)}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"tracker {name}: its package cannot be imported ({error}); "
                f"install it with pip install 'yolov6-ignite[{name}]'"
            ) from error
        self.name = name
        self.parameters = dict(_flat(parameters))
        self.run_name = run_name
        self.run_id: str | None = None
        self._service: _Service | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self._service is None or not train_state(engine).history:
            return
        row = {name: value for name, value in train_state(engine).history[-1].items() if name != "epoch"}
        try:
            self._service.log_scalars(row, train_state(engine).epoch)
        except Exception as error:  # every tracker has errors of its own, and none is worth hours of training
            logger.warning(
                "epoch %d could not be sent to %s (%s); metrics.csv has it", train_state(engine).epoch, self.name, error
            )

    def close(self) -> None:
        """Ends the tracker's run; it can be continued."""
        if self._service is not None:
            service, self._service = self._service, None
            try:
                service.close()
            except Exception as error:  # the run itself is over
                logger.warning("%s could not be closed (%s)", self.name, error)

    def state_dict(self) -> dict[str, str | None]:
        """The tracker's id of the run, None before it has begun."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        self.run_id = state["run_id"]

    def _start(self, engine: Engine) -> None:
        train_state(engine).exit_stack.callback(self.close)
        known = self.run_id is not None
        try:
            self._service = _SERVICES[self.name](self.run_name, self.run_id)
            self.run_id = self._service.run_id
            if not known:  # MLflow refuses to change them
                self._service.log_parameters(self.parameters)
        except Exception as error:  # every tracker has errors of its own
            raise TrackerError(f"{self.name} cannot begin ({error}); see its environment variables") from error


class _Service(Protocol):
    run_id: str

    def __init__(self, run_name: str, run_id: str | None) -> None:
        """Begins a run, or continues the one of an id."""

    def log_parameters(self, parameters: Mapping[str, Any]) -> None: ...

    def log_scalars(self, scalars: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _MLflow:
    def __init__(self, run_name: str, run_id: str | None) -> None:
        mlflow = importlib.import_module("mlflow")
        if mlflow.active_run() is None:  # Ignite's logger takes the active one; one that is continued has its name
            mlflow.start_run(run_id=run_id, run_name=run_name if run_id is None else None)
        self._logger = MLflowLogger()
        self.run_id: str = mlflow.active_run().info.run_id

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        items = list(parameters.items())
        for start in range(0, len(items), MLFLOW_PARAMETERS_A_CALL):
            self._logger.log_params(dict(items[start : start + MLFLOW_PARAMETERS_A_CALL]))

    def log_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        # MLflow refuses names with an @
        self._logger.log_metrics(
            {re.sub(r"[^\w./: -]", "_", name): value for name, value in scalars.items()}, step=step
        )

    def close(self) -> None:
        self._logger.close()


class _WandB:
    def __init__(self, run_name: str, run_id: str | None) -> None:
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._logger = WandBLogger(project=project, name=run_name, id=run_id, resume="allow")
        self.run_id: str = self._logger.run.id

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._logger.config.update(dict(parameters))

    def log_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        self._logger.log(dict(scalars), step=step)

    def close(self) -> None:
        self._logger.close()


class _ClearML:
    def __init__(self, run_name: str, run_id: str | None) -> None:
        self._logger = ClearMLLogger(
            project_name=os.environ.get("CLEARML_PROJECT", PROJECT),
            task_name=run_name,
            reuse_last_task_id=run_id or False,
            continue_last_task=False if run_id is None else 0,  # the number is added to every step
            auto_connect_frameworks=False,  # or TensorBoard's scalars and every checkpoint would be sent as well
            auto_connect_arg_parser=False,
        )
        self.run_id: str = self._logger.get_task().id

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._logger.get_task().connect(dict(parameters))

    def log_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            title, _, series = name.partition("/")
            self._logger.report_scalar(title=title, series=series or title, value=value, iteration=step)

    def close(self) -> None:
        self._logger.close()


class _Neptune:
    def __init__(self, run_name: str, run_id: str | None) -> None:
        # a run that is continued has its name
        which = {"name": run_name} if run_id is None else {"with_id": run_id}
        self._logger = NeptuneLogger(**which)
        self.run_id: str = self._logger["sys/id"].fetch()

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._logger["parameters"] = dict(parameters)

    def log_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._logger[name].append(value, step=step)

    def close(self) -> None:
        self._logger.close()


_SERVICES: dict[str, type[_Service]] = {"mlflow": _MLflow, "wandb": _WandB, "clearml": _ClearML, "neptune": _Neptune}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else str(value)
