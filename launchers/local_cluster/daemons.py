"""Daemons that outlive the command which started them. A record of pid and start time identifies each of them later."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RECORDS, LOGS = "pids", "log"
# The shell writes its own record and then becomes the daemon, so a kill at any moment leaves no daemon without a record.
WRITE_RECORD_AND_EXEC = 'read -r stat < /proc/$$/stat && echo "$stat" > "$0" && exec "$@"'


@dataclass(frozen=True)
class ProcessId:
    """A pid and a start time; another process that gets the same pid later is not equal."""

    pid: int
    start_ticks: int
    """Clock ticks since the machine booted."""

    def is_alive(self) -> bool:
        """Return False also for a zombie, which may stay for some seconds under a slow init."""
        stat = read_stat(self.pid)
        return stat is not None and stat.id == self and stat.state not in "ZX"

    def send(self, number: int) -> None:
        """Send a signal; does nothing after the process has ended."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True)
class ProcessStat:
    """A process as ``/proc/PID/stat`` describes it."""

    id: ProcessId
    name: str
    state: str
    parent_pid: int


def read_stat(pid: int) -> ProcessStat | None:
    """Return None if there is no such process."""
    try:
        return _parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace", encoding="utf-8"))
    except OSError:
        return None


def _parse_stat(line: str) -> ProcessStat:
    before, _, after = line.rpartition(")")  # a name may hold any character, brackets too
    pid, _, name = before.partition(" (")
    fields = after.split()
    return ProcessStat(ProcessId(int(pid), int(fields[19])), name, fields[0], int(fields[1]))


def start(folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
    """Start a daemon as a child of init in its own session; its output goes to `log/NAME.out`.

    Args:
        folder: gets the record and the log.
        name: the program's name; with several daemons of one program, a suffix after a dash: ``slurmd-127.0.77.1``.
        command: full path of the program, and its arguments; the program must stay in the foreground.
        environment: the whole environment of the daemon.
        cwd: its working directory.

    Raises:
        OSError: the machine refuses another process.
    """
    (folder / RECORDS / name).unlink(missing_ok=True)
    with (folder / LOGS / f"{name}.out").open("ab") as log:
        done = subprocess.run(
            ["setsid", "--fork", "sh", "-c", WRITE_RECORD_AND_EXEC, str(folder / RECORDS / name), *command],
            cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def find_all(folder: Path) -> dict[str, ProcessId | None]:
    """Return every daemon that was started, by name; None for a daemon that has ended."""
    return {path.name: find(folder, path.name) for path in sorted((folder / RECORDS).glob("*"))}


def find(folder: Path, name: str) -> ProcessId | None:
    """Return the daemon of this name if it is alive. A process that only reuses its pid does not count."""
    try:
        line = (folder / RECORDS / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    if not line.endswith("\n"):
        return None
    process = _parse_stat(line).id
    stat = read_stat(process.pid)
    names = ("sh", name.partition("-")[0])  # Debian's slurmd is a link to slurmd-wlm
    return process if stat is not None and stat.name.startswith(names) and process.is_alive() else None


def has_record(folder: Path, name: str) -> bool:
    """Return whether a daemon has written its record; it may have ended since."""
    path = folder / RECORDS / name
    return path.exists() and path.read_text(encoding="utf-8").endswith("\n")


def list_processes() -> list[ProcessStat]:
    """Return all living processes of this machine."""
    stats = (read_stat(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return [stat for stat in stats if stat is not None and stat.state not in "ZX"]


def read_environment(pid: int) -> dict[str, str]:
    """Return the environment that a process started with; {} without permission to read it."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def read_cwd(pid: int) -> Path | None:
    """Return the working directory of a process; None without permission to read it."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def find_descendants(roots: Iterable[ProcessId], stats: Iterable[ProcessStat]) -> list[ProcessId]:
    """Return the children of the roots, their children, and so on, without the roots."""
    children: dict[int, list[ProcessId]] = {}
    for stat in stats:
        children.setdefault(stat.parent_pid, []).append(stat.id)
    descendants: list[ProcessId] = []
    pending = [root.pid for root in roots]
    while pending:
        new = children.pop(pending.pop(), [])
        descendants += new
        pending += [process.pid for process in new]
    return descendants


def terminate(processes: Sequence[ProcessId], timeout_s: float) -> None:
    """Send SIGTERM, later SIGKILL, and wait until the processes have ended.

    Args:
        processes: those that have ended already are ignored.
        timeout_s: time between SIGTERM and SIGKILL; 0 sends SIGKILL at once.
    """
    first = [(signal.SIGTERM, timeout_s)] if timeout_s else []
    for number, wait_s in (*first, (signal.SIGKILL, 10.0)):
        for process in processes:
            process.send(number)
        deadline = time.monotonic() + wait_s
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)
