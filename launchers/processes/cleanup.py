"""Cleans up what an ended process may leave on its machine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")


def find_descendants(pid: int) -> list[psutil.Process]:
    """Return the children of a process, their children, and so on."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, to load data or to compile, also in other sessions. It may be this one."""
    descendants = find_descendants(pid)
    is_leader = False
    with contextlib.suppress(ProcessLookupError):
        is_leader = os.getpgid(pid) == pid
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        free_shared_memory(process.pid)
    free_shared_memory(pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL) if is_leader else os.kill(pid, signal.SIGKILL)


def clean_up(pid: int) -> None:
    """Kill the rest of the session that an ended process led, and free the shared memory that it held."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    free_shared_memory(pid)


def free_shared_memory(pid: int) -> None:
    """Remove the files in which torch keeps shared tensors of an ended process; their names hold the process id."""
    for path in SHARED_MEMORY.glob(f"torch_{pid}_*"):
        with contextlib.suppress(OSError):
            path.unlink()
