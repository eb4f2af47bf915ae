"""Events of training that Ignite does not have, and what handlers share on ``engine.state``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from ignite.engine import Engine, EventEnum
from torch import Tensor, nn

__all__ = ["StopRequest", "TrainEvents", "TrainState", "register_train_events", "train_state"]


class TrainEvents(EventEnum):
    """Fired by the step, by gradient accumulation and by evaluation.

    - ``BACKWARD_COMPLETED``: by the step, after every micro-batch's backward pass; counts iterations.
    - ``OPTIMIZER_STEP_STARTED``: by accumulation, before the optimizer; gradients are whole; counts optimizer steps.
    - ``OPTIMIZER_STEP_COMPLETED``: by accumulation, after a step that was taken; counts optimizer steps.
    - ``VALIDATION_STARTED``, ``VALIDATION_COMPLETED``: by the evaluation handler; count epochs.
    """

    BACKWARD_COMPLETED = "backward_completed"
    OPTIMIZER_STEP_STARTED = "optimizer_step_started"
    OPTIMIZER_STEP_COMPLETED = "optimizer_step_completed"
    VALIDATION_STARTED = "validation_started"
    VALIDATION_COMPLETED = "validation_completed"


_STATE_ATTRIBUTES: dict[EventEnum, str] = {
    TrainEvents.BACKWARD_COMPLETED: "iteration",
    TrainEvents.OPTIMIZER_STEP_STARTED: "optimizer_step",
    TrainEvents.OPTIMIZER_STEP_COMPLETED: "optimizer_step",
    TrainEvents.VALIDATION_STARTED: "epoch",
    TrainEvents.VALIDATION_COMPLETED: "epoch",
}


class StopRequest(NamedTuple):
    """Why a run stops before its end.

    Attributes:
        exit_code: what the command ends with.
        reason: one sentence for people.
    """

    exit_code: int
    reason: str


class TrainState(Protocol):
    """``engine.state`` as the handlers share it.

    Attributes:
        iteration: iterations finished or begun, from 1.
        epoch: the same for epochs.
        epoch_length: iterations in an epoch.
        max_epochs: length of the run.
        batch: what the step works on.
        output: the step's loss terms by name, on the device.
        dataloader: where batches come from.
        optimizer_step: optimizer steps taken.
        step_rejected: set by a listener of ``OPTIMIZER_STEP_STARTED`` to drop the window's gradients.
        ema_model: the averaged model, which evaluation, checkpoints and strip use.
        losses: means of the last finished epoch by term.
        running_losses: gives the means so far of this rank; waits for the device.
        validation: metrics of the last evaluation, and the ``epoch`` that it was made in.
        history: one row of numbers an epoch.
        stop_request: set by a handler to end the run.
    """

    iteration: int
    epoch: int
    epoch_length: int
    max_epochs: int
    batch: Any
    output: Mapping[str, Tensor]
    dataloader: Any
    optimizer_step: int
    step_rejected: bool
    ema_model: nn.Module
    losses: dict[str, float]
    running_losses: Callable[[], dict[str, float]]
    validation: dict[str, Any]
    history: list[dict[str, float]]
    stop_request: StopRequest | None


def train_state(engine: Engine) -> TrainState:
    """``engine.state``, typed."""
    return cast(TrainState, engine.state)


def register_train_events(engine: Engine) -> None:
    """Registers :class:`TrainEvents`, so that filters (``every=``) and loggers count what the event counts.

    Also puts what the handlers share (:class:`TrainState`) on the engine's state.
    """
    engine.register_events(*TrainEvents, event_to_attr=_STATE_ATTRIBUTES)
    state = train_state(engine)
    state.optimizer_step = 0
    state.step_rejected = False
    state.losses = {}
    state.running_losses = dict
    state.validation = {}
    state.history = []
    state.stop_request = None
    engine.state_dict_user_keys.append("optimizer_step")
