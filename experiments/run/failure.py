"""Failure classes of an attempt, and which of them another attempt may cure."""

from __future__ import annotations

import re

CONFIG = "config error"
"""The configuration cannot run on this machine."""
EXCEPTION = "exception"
"""Code of the trial raised one."""
DEVICE_MEMORY = "out of device memory"
HOST_MEMORY = "out of host memory"
DISK = "disk full"
TIMEOUT = "time-out"
"""The scheduler's time limit."""
PREEMPTED = "preempted"
NODE_LOST = "node lost"
"""The worker disappeared without reporting an error."""
KILLED = "killed"
"""A signal that the worker did not send ended a process of the trial."""
DATA_LOST = "data lost"
"""Files of the run were removed, moved or cut off while it trained."""
CANCELLED = "cancelled"

RETRYABLE = frozenset({TIMEOUT, PREEMPTED, NODE_LOST, KILLED})
"""Another attempt may succeed."""

SCHEDULER_MESSAGES = {
    HOST_MEMORY: r"exceeded (?:job )?memory limit|oom.?kill|out.?of.?memory",
    TIMEOUT: r"\bTIMEOUT\b|due to time limit",
    PREEMPTED: r"\bPREEMPTED\b|due to preemption",
}
"""What a scheduler prints about a worker that it ended, as a pattern for each class."""


def classify_loss(output: str) -> str:
    """The failure class of an attempt that lost its worker, from the output of the scheduler and the worker."""
    return next(
        (failure for failure, pattern in SCHEDULER_MESSAGES.items() if re.search(pattern, output, re.IGNORECASE)),
        NODE_LOST,
    )
