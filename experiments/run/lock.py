"""The lock of a run: while a launcher or a job is at work on it, nobody else begins."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO


def lock_run(run_folder: Path, *, first: bool = False) -> TextIO:
    """Hold a run until the file is closed or the process ends, however it ends; any number may hold it together.

    Launcher and job each hold it, so that it stays held when one of them is killed. Where a file system knows no locks,
    nothing is held.

    Args:
        run_folder: the run's.
        first: only where nobody holds it yet.

    Raises:
        BlockingIOError: ``first`` was asked for and somebody holds it.
    """
    file = (run_folder / "run.lock").open("a")
    try:
        if first:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # some cluster file systems have no flock; the attempt's folder still is made by one alone
        pass
    os.register_at_fork(after_in_child=file.close)  # a data worker that outlives a killed job must not hold its run
    return file
