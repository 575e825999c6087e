"""Processes that outlive the command which started them, and are known again by the record of their birth."""

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
# The shell writes down its own birth and then becomes the daemon, so that no moment's kill leaves one without a record.
BIRTH = 'read -r stat < /proc/$$/stat && echo "$stat" > "$0" && exec "$@"'


@dataclass(frozen=True)
class Process:
    """One process, whoever has its number later."""

    pid: int
    born: int
    """Clock ticks after the machine's start."""

    def is_alive(self) -> bool:
        """False also for one that has ended and waits to be reaped, which takes some seconds under a slow init."""
        found = stat(self.pid)
        return found is not None and found.process == self and found.state not in "ZX"

    def send(self, number: int) -> None:
        """Signal it; nothing happens where it has ended."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a process."""

    process: Process
    name: str
    state: str
    parent: int


def stat(pid: int) -> Stat | None:
    """None where there is no such process."""
    try:
        return _parsed(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except OSError:
        return None


def _parsed(line: str) -> Stat:
    before, _, after = line.rpartition(")")  # a name may hold anything, brackets too
    pid, _, name = before.partition(" (")
    fields = after.split()
    return Stat(Process(int(pid), int(fields[19])), name, fields[0], int(fields[1]))


def start(folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
    """Start a daemon in a session of its own, with no parent but init, what it prints in `log/NAME.out`.

    Args:
        folder: where its record and its log lie.
        name: the program's, and after a dash which of several: ``slurmd-127.0.77.1``.
        command: the program by its full path, and its arguments; it has to stay in the foreground.
        environment: all that it sees.
        cwd: the folder it works in.

    Raises:
        OSError: nothing can be started on this machine.
    """
    (folder / RECORDS / name).unlink(missing_ok=True)
    with (folder / LOGS / f"{name}.out").open("ab") as log:
        done = subprocess.run(
            ["setsid", "--fork", "sh", "-c", BIRTH, str(folder / RECORDS / name), *command],
            cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def recorded(folder: Path) -> dict[str, Process | None]:
    """Every daemon that was started, by name; None for one that has ended."""
    return {path.name: find(folder, path.name) for path in sorted((folder / RECORDS).glob("*"))}


def find(folder: Path, name: str) -> Process | None:
    """The daemon of this name, if it is alive; a process that has its number by chance is none."""
    try:
        line = (folder / RECORDS / name).read_text()
    except FileNotFoundError:
        return None
    if not line.endswith("\n"):
        return None
    process = _parsed(line).process
    found = stat(process.pid)
    names = ("sh", name.partition("-")[0])  # Debian's slurmd is a link to slurmd-wlm
    return process if found is not None and found.name.startswith(names) and process.is_alive() else None


def was_born(folder: Path, name: str) -> bool:
    """True once a daemon has written its record, whatever became of it."""
    path = folder / RECORDS / name
    return path.exists() and path.read_text().endswith("\n")


def everything() -> list[Stat]:
    """All living processes of this machine."""
    found = (stat(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return [one for one in found if one is not None and one.state not in "ZX"]


def environment_of(pid: int) -> dict[str, str]:
    """What a process was started with; empty where that is not for us to see."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def cwd_of(pid: int) -> Path | None:
    """The folder it works in; None where that is not for us to see."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def offspring(roots: Iterable[Process], among: Iterable[Stat]) -> list[Process]:
    """Children of these processes, their children, and so on."""
    children: dict[int, list[Process]] = {}
    for one in among:
        children.setdefault(one.parent, []).append(one.process)
    found: list[Process] = []
    waiting = [root.pid for root in roots]
    while waiting:
        new = children.pop(waiting.pop(), [])
        found += new
        waiting += [process.pid for process in new]
    return found


def end(processes: Sequence[Process], patience_s: float) -> None:
    """End processes, kindly first, and wait until they are gone.

    Args:
        processes: those that have ended already are no fault.
        patience_s: how long they may take before they are killed; 0 kills at once.
    """
    kindly = [(signal.SIGTERM, patience_s)] if patience_s else []
    for number, wait_s in (*kindly, (signal.SIGKILL, 10.0)):
        for process in processes:
            process.send(number)
        deadline = time.monotonic() + wait_s
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)
