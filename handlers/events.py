"""Events of training that Ignite does not have, and what handlers share on ``engine.state``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, cast

from ignite.engine import Engine, EventEnum
from torch import Tensor, nn

__all__ = [
    "StopRequest",
    "TrainEvents",
    "TrainState",
    "is_complete",
    "register_train_events",
    "require_event",
    "train_state",
]


class TrainEvents(EventEnum):
    """Fired by the step, by gradient accumulation and by evaluation.

    - ``BACKWARD_COMPLETED``: by the step, after every micro-batch's backward pass; counts iterations.
    - ``OPTIMIZER_STEP_STARTED``: by accumulation, before the optimizer; gradients are whole; counts optimizer steps,
      the one about to be taken included.
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
        prediction: what the model returned in this step, during ``BACKWARD_COMPLETED``; None at any other time.
        dataloader: where batches come from.
        optimizer_step: optimizer steps taken; during ``OPTIMIZER_STEP_STARTED`` the number of the one that begins.
        step_rejected: set by a listener of ``OPTIMIZER_STEP_STARTED`` to drop the window's gradients.
        ema_model: the averaged model, which evaluation, checkpoints and strip use; None before there is one.
        losses: means of the last finished epoch by term.
        running_losses: gives the means so far of this rank; waits for the device.
        validation: metrics of the last evaluation, and the ``epoch`` that it was made in.
        history: one row of numbers an epoch.
        stop_request: set by a handler to end the run before it is complete.
        early_stop_reason: set by a handler that ends the run for good: it then counts as complete.
        finish: reduces the run's checkpoints to what inference needs; what a resume repeats when it was cut off there.
        writer: the run's TensorBoard ``SummaryWriter``; None on ranks other than 0, and on an engine without a run.
        exit_stack: what must be undone when the run is over, however it ends; whoever runs the engine closes it.
    """

    iteration: int
    epoch: int
    epoch_length: int
    max_epochs: int
    batch: Any
    output: Mapping[str, Tensor]
    prediction: Any
    dataloader: Any
    optimizer_step: int
    step_rejected: bool
    ema_model: nn.Module | None
    losses: dict[str, float]
    running_losses: Callable[[], dict[str, float]]
    validation: dict[str, Any]
    history: list[dict[str, float]]
    stop_request: StopRequest | None
    early_stop_reason: str | None
    finish: Callable[[], None]
    writer: Any
    exit_stack: ExitStack


_DEFAULTS: dict[str, Callable[[], Any]] = {
    "optimizer_step": int,
    "step_rejected": bool,
    "prediction": lambda: None,
    "ema_model": lambda: None,
    "losses": dict,
    "running_losses": lambda: dict,
    "validation": dict,
    "history": list,
    "stop_request": lambda: None,
    "early_stop_reason": lambda: None,
    "finish": lambda: lambda: None,
    "writer": lambda: None,
    "exit_stack": ExitStack,
}


def train_state(engine: Engine) -> TrainState:
    """``engine.state`` of any engine, typed, with what the handlers share on it."""
    state = engine.state
    if not hasattr(state, "exit_stack"):
        for name, make in _DEFAULTS.items():
            if not hasattr(state, name):
                setattr(state, name, make())
    return cast(TrainState, state)


def is_complete(state: TrainState) -> bool:
    """Whether a run has reached its end, and was not merely stopped."""
    return state.early_stop_reason is not None or state.iteration >= state.epoch_length * state.max_epochs


def register_train_events(engine: Engine, *events: TrainEvents) -> None:
    """Registers :class:`TrainEvents`, so that filters (``every=``) and loggers count what the event counts.

    Also puts what the handlers share (:class:`TrainState`) on the engine's state. Once is enough; more do no harm.

    Args:
        engine: whose step, or whose handlers, fire the events.
        events: those that will be fired; none names all.
    """
    train_state(engine)
    new = [event for event in events or TrainEvents if event not in engine._allowed_events]
    engine.register_events(*new, event_to_attr={event: _STATE_ATTRIBUTES[event] for event in new})
    if "optimizer_step" not in engine.state_dict_user_keys:
        engine.state_dict_user_keys.append("optimizer_step")


def require_event(engine: Engine, event: Any, handler: object, remedy: str) -> None:
    """Refuses to attach a handler to an engine that never fires its event.

    Raises:
        ValueError: says which event is missing, and the remedy.
    """
    if event.name in TrainEvents.__members__ and event not in engine._allowed_events:
        raise ValueError(
            f"{type(handler).__name__}: this engine does not fire TrainEvents.{event.name}; {remedy}, or call "
            "register_train_events(engine) and fire it in the step"
        )
