"""Why an attempt did not finish, in one word each, and whether another attempt may help."""

from __future__ import annotations

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

INTERRUPTED = frozenset({TIMEOUT, PREEMPTED, NODE_LOST})
"""No fault of the trial's."""
RETRIED = INTERRUPTED | {KILLED}
