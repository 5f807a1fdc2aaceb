"""What can go wrong while learning that a restart of the processes does not fix."""

from __future__ import annotations

import re

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


_SHOWN = 200  # characters of a reason in a message
_CAUSES = (
    (r"running low on memory|OutOfMemory", "killed, as its node ran out of memory"),
    (
        r"node (?:was|is|has)[^.]{0,40}(?:dead|died|terminated|removed)|NodeDied|[Nn]ode failure|"
        r"node[^.]{0,60}(?:missed too many heartbeats|unexpectedly)",
        "its node died or was cut off from the network",
    ),
    (r"(?:exit code|exit_code)\D{0,3}-?\d+", ""),
    (
        r"SYSTEM_ERROR|connection error code|Socket closed|End of file|SIGKILL|SIGSEGV|worker process has died|"
        r"actor died unexpectedly",
        "it was killed or crashed",
    ),
)


def reason_of(error: BaseException | str) -> str:
    """Why a process or a call failed, in one short line of plain words.

    Ray's own texts have a thousand characters with addresses of web pages in between. What is in them is told apart
    here: an exception's own last line where the process raised one, else how the process ended.

    Args:
        error: As raised by Ray (or its text).
    """
    text = str(error).strip() or type(error).__name__
    own = [
        line.strip()
        for line in text.splitlines()
        if re.match(r"\s*[\w.]*(?:Error|Exception|Failed|Exceeded)\b.*:", line)
    ]
    own = [line for line in own if not line.startswith(("ray.exceptions.", "RayActorError", "ActorDiedError"))]
    if own:
        return _short(own[-1])
    for pattern, words in _CAUSES:
        if match := re.search(pattern, text):
            return words or f"it ended with {match[0].replace('exit_code', 'exit code')}"
    return _short(text.splitlines()[0])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
