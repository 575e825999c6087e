"""Runs a function as the whole life of a forked process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from launchers.base import FAILED

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def run_in_fork(run: Callable[[], int]) -> NoReturn:
    """Run a function in a forked process and end the process with its exit code; the parent's code never continues here."""
    code = FAILED
    try:
        code = run()
    except SystemExit as err:  # user code called sys.exit
        code = err.code if isinstance(err.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
