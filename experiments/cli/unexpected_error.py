"""Reports an error that no command handles in a few lines; if the user's own code raised it, its line comes first."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Collection

from experiments.components.user_code import find_user_error, get_message
from experiments.core.files.packages import PACKAGES, public_name

FULL = "LATHE_TRACEBACK"
"""Environment variable that prints every traceback."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def report(err: Exception, trust: Collection[str] = ()) -> int:
    """Print an error to standard error, and return the exit code.

    Args:
        err: from any command.
        trust: packages of the user.
    """
    if print_user_frame(err, trust) and not os.environ.get(FULL):
        print(_keep_traceback(err), file=sys.stderr)
        return 1
    if os.environ.get(FULL):
        traceback.print_exception(err)
        return 1
    if isinstance(err, OSError) and err.filename is not None:
        return _report_file(err)
    kind, reason = type(err).__name__, " ".join(str(err).split())
    print(f"lathe failed by an error of its own, {kind}: {reason[:500]} ({_last_line(err)})", file=sys.stderr)
    print(f"{_keep_traceback(err)}; please report it, with your command", file=sys.stderr)
    return 1


def print_user_frame(err: BaseException, trust: Collection[str] = ()) -> bool:
    """Print the line of the user's code that raised an error, and the error; returns whether there is such a line."""
    own, frame = find_user_error(err, trust)
    if frame is None:
        return False
    print(f"{frame}\n{type(own).__name__}: {get_message(own)}", file=sys.stderr)
    return True


def _report_file(err: OSError) -> int:
    """A file that cannot be read or written is the user's to mend; a full disk is not a wrong input."""
    name = os.fsdecode(err.filename) if isinstance(err.filename, (str, bytes)) else str(err.filename)
    is_disk = err.errno in DISK_ERRORS
    fix = "free space on its disk" if is_disk else "name another file, or change this one"
    print(f"{type(err).__name__}: {name[:200]}: {err.strerror}; {fix}", file=sys.stderr)
    return 1 if is_disk else 2


def _last_line(err: Exception) -> str:
    """The innermost line of Lathe, such as ``experiments/trial/trial.py:231``."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(err.__traceback__)]
    own = [
        (frame, line)
        for frame, line in frames
        if public_name(str(frame.f_globals.get("__name__"))).partition(".")[0] in PACKAGES
    ]
    frame, line = (own or frames)[-1]
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{line}"


def _keep_traceback(err: Exception) -> str:
    """Write the traceback to a file; returns a sentence that says where it is."""
    again = f"`{FULL}=1 lathe ...` prints the traceback"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lathe-traceback-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(err, file=file)
    except OSError:
        return again
    return f"the traceback is in {file.name}; {again}"
