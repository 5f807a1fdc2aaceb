"""What can go wrong while learning that a restart of the processes does not mend."""

from __future__ import annotations

from configs.errors import UserError


class NumericError(UserError):
    """A loss or gradient stopped being finite; the message names the pairs of the step.

    The weights are those before the step, and the last checkpoint is untouched.
    """


class LearnerTimeout(RuntimeError):
    """A deadline passed; the message says what was waited for and for how long."""


class LearnerFailed(RuntimeError):
    """The learner group died more often than ``learner.max_failures`` allows."""


class BroadcastFailed(RuntimeError):
    """A broadcast of weights ended without everybody having them; the learner is as it was."""
