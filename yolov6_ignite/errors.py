"""Errors that a user can cause, each with the exit code that a command ends with."""

from __future__ import annotations

__all__ = ["ConfigError", "DatasetError", "NonFiniteError", "StoppedError", "UserError"]


class UserError(Exception):
    """An expected failure: one message (what, where, what to do), no traceback.

    Attributes:
        exit_code: the status that a command line ends with.
        on_all_ranks: whether every rank raises it, so that one is enough to tell.
    """

    exit_code = 2
    on_all_ranks = False


class ConfigError(UserError):
    """Bad usage, configuration, weights or output directory (exit code 2)."""


class DatasetError(UserError):
    """A data set that cannot be used (exit code 3)."""

    exit_code = 3


class NonFiniteError(UserError):
    """Gradients stayed non-finite for ``train.max_bad_steps`` optimizer steps (exit code 4)."""

    exit_code = 4


class StoppedError(UserError):
    """The run was stopped by a signal or its time limit (exit code 75); a training can be resumed."""

    exit_code = 75
