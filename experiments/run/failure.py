"""Why an attempt did not finish, in one word each, and whether another attempt may help."""

from __future__ import annotations

import re

CONFIG = "config error"
"""The configuration cannot run on this machine."""
EXCEPTION = "exception"
"""Code raised one."""
DEVICE_MEMORY = "out of device memory"
HOST_MEMORY = "out of host memory"
DISK = "disk full"
TIMEOUT = "time-out"
"""The scheduler's time limit."""
PREEMPTED = "preempted"
NODE_LOST = "node lost"
"""The worker has gone without a word."""
KILLED = "killed"
"""A process of the trial was ended by a signal that the worker did not send."""
CANCELLED = "cancelled"

RETRYABLE = frozenset({TIMEOUT, PREEMPTED, NODE_LOST, KILLED})
"""Where another attempt may help."""

SAID = {
    HOST_MEMORY: r"exceeded (?:job )?memory limit|oom.?kill|out.?of.?memory",
    TIMEOUT: r"\bTIMEOUT\b|due to time limit",
    PREEMPTED: r"\bPREEMPTED\b|due to preemption",
}
"""What a scheduler says of a worker that it ended, by class."""


def classify_loss(said: str) -> str:
    """The class of an attempt whose worker has gone, by what the scheduler and the worker's log say of it."""
    return next((failure for failure, words in SAID.items() if re.search(words, said, re.IGNORECASE)), NODE_LOST)
