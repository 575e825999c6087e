"""The lock of a run: it keeps a second launcher or training process from starting on the same run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from experiments.core.lock import MODE, LocksUnsupportedError, acquire


def lock_run(run_folder: Path, *, first: bool = False) -> TextIO:
    """Lock a run until the file is closed or the process ends. Several processes can hold the lock together.

    The launcher and the training process both hold it, so the run stays locked when one of them is killed. On a file
    system without locks the function locks nothing.

    Args:
        run_folder: folder of the run.
        first: fail if another process holds the lock.

    Raises:
        BlockingIOError: ``first`` is True and another process holds the lock.
    """
    file = (run_folder / "run.lock").open(MODE, encoding="utf-8")
    try:
        if first:
            acquire(file, blocking=False)
        acquire(file, shared=True)
    except BlockingIOError:
        file.close()
        raise
    except LocksUnsupportedError:  # mkdir still lets only one process create the folder of an attempt
        pass
    os.register_at_fork(after_in_child=file.close)  # a data worker that outlives a killed job must not keep the lock
    return file
