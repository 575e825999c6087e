"""Reports an error that no command handles: in a few lines, or with a traceback if the user's own code raised it."""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Collection
from types import FrameType

FULL = "LATHE_TRACEBACK"
"""Environment variable that prints every traceback."""
OWN = frozenset({"benchmarks", "conf", "experiments", "launchers", "modules", "sweeps", "tests"})
STDLIB = sysconfig.get_path("stdlib")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def report(err: Exception, trust: Collection[str] = ()) -> int:
    """Print an error to standard error, and return the exit code.

    Args:
        err: from any command.
        trust: packages of the user.
    """
    if _is_in_user_code(err, trust) or os.environ.get(FULL):
        traceback.print_exception(err)
        return 1
    if isinstance(err, OSError) and err.filename is not None:
        return _report_file(err)
    kind, reason = type(err).__name__, " ".join(str(err).split())
    print(f"lathe failed by an error of its own, {kind}: {reason[:500]} ({_last_line(err)})", file=sys.stderr)
    print(f"{_keep_traceback(err)}; please report it, with your command", file=sys.stderr)
    return 1


def _report_file(err: OSError) -> int:
    """A file that cannot be read or written is the user's to mend; a full disk is not a wrong input."""
    name = os.fsdecode(err.filename) if isinstance(err.filename, (str, bytes)) else str(err.filename)
    is_disk = err.errno in DISK_ERRORS
    fix = "free space on its disk" if is_disk else "name another file, or change this one"
    print(f"{type(err).__name__}: {name[:200]}: {err.strerror}; {fix}", file=sys.stderr)
    return 1 if is_disk else 2


def _is_in_user_code(err: Exception, trust: Collection[str]) -> bool:
    return any(_is_user_frame(frame, trust) for frame, _ in traceback.walk_tb(err.__traceback__))


def _is_user_frame(frame: FrameType, trust: Collection[str]) -> bool:
    package, path = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
    if package in trust:
        return True
    is_installed = {"site-packages", "dist-packages"} & {*path.split(os.sep)} or path.startswith(STDLIB)
    return package not in OWN and not is_installed and os.path.isfile(path)  # code that a library generates has no file


def _last_line(err: Exception) -> str:
    """The innermost line of Lathe, such as ``experiments/trial/trial.py:231``."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(err.__traceback__)]
    own = [(frame, line) for frame, line in frames if str(frame.f_globals.get("__name__")).partition(".")[0] in OWN]
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
