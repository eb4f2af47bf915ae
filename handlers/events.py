"""Events of training that Ignite does not have, and what handlers share on ``engine.state``."""

from __future__ import annotations

from ignite.engine import Engine, EventEnum

__all__ = ["TrainEvents", "register_train_events"]


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


def register_train_events(engine: Engine) -> None:
    """Registers :class:`TrainEvents`, so that filters (``every=``) and loggers count what the event counts.

    The engine's state also gets what the handlers share: ``optimizer_step`` (steps taken), ``step_rejected``
    (set by a listener of ``OPTIMIZER_STEP_STARTED`` to drop the window's gradients), ``ema_model``, ``losses``
    (means of the last epoch), ``validation`` (metrics of the last evaluation and the epoch that it was made in)
    and ``stop_request``.
    """
    engine.register_events(*TrainEvents, event_to_attr=_STATE_ATTRIBUTES)
    state = engine.state
    state.optimizer_step = 0
    state.step_rejected = False
    state.ema_model = None
    state.losses = {}
    state.validation = {}
    state.stop_request = None
    engine.state_dict_user_keys.append("optimizer_step")
