"""What a process that has ended may leave on its machine, and how it is cleared away."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")


def children(pid: int) -> list[psutil.Process]:
    """Processes that a process started, and those that they did."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def clear(pid: int) -> None:
    """End what is left of the session that an ended process led, and free the shared memory that it held."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    free_shared_memory(pid)


def free_shared_memory(pid: int) -> None:
    """Remove what torch's tensors of an ended process hold in shared memory: they are files named by its number."""
    for path in SHARED_MEMORY.glob(f"torch_{pid}_*"):
        with contextlib.suppress(OSError):
            path.unlink()
