"""Locks between processes: which exclude each other, and when the kernel releases them."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.core import lock
from experiments.core.errors import InputError
from experiments.core.lock import (
    MODE,
    LockHeldError,
    LocksUnsupportedError,
    acquire,
    locked,
    locked_patiently,
    locked_within_limits,
)
from experiments.run.lock import lock_run
from experiments.sweep.ledger import Ledger
from experiments.tracking import follow_sweep
from tests.support.waiting import PATIENCE_S


@pytest.mark.parametrize(
    ("first_is_shared", "second_is_shared", "excludes"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_only_shared_locks_are_held_together(
    tmp_path: Path, first_is_shared: bool, second_is_shared: bool, excludes: bool
) -> None:
    path = tmp_path / "x.lock"
    with locked(path, shared=first_is_shared):
        if excludes:
            with pytest.raises(BlockingIOError), locked(path, shared=second_is_shared, blocking=False):
                pass
        else:
            with locked(path, shared=second_is_shared, blocking=False):
                pass
    with locked(path, shared=second_is_shared, blocking=False):
        pass


def test_an_exclusive_lock_becomes_a_shared_one(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with path.open(MODE) as one, path.open(MODE) as other:
        acquire(one)
        with pytest.raises(BlockingIOError):
            acquire(other, shared=True, blocking=False)
        acquire(one, shared=True)
        acquire(other, shared=True, blocking=False)
        with pytest.raises(BlockingIOError):
            acquire(one, blocking=False)


def test_a_blocking_lock_waits_for_the_holder(tmp_path: Path) -> None:
    path, events = tmp_path / "x.lock", list[str]()

    def wait() -> None:
        with locked(path):
            events.append("acquired")

    with locked(path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        events.append("released")
    waiting.join(PATIENCE_S)
    assert events == ["released", "acquired"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_killed_process_releases_its_lock(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "x.lock"
    code = (
        "import sys, time; from pathlib import Path; from experiments.core.lock import locked\n"
        f"with locked(Path(sys.argv[1]), shared={shared}):\n    print('locked', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError), locked(path, blocking=False):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with locked(path, blocking=False):
        pass


HOLD = """
import fcntl, os, signal, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
signal.pause()
"""


@contextmanager
def stopped_holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a lock and is stopped."""
    holder = subprocess.Popen([sys.executable, "-I", "-S", "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize(("is_stopped", "shown"), [(True, "is stopped and has"), (False, "has had the lock for 0 s")])
def test_no_wait_for_ever_behind_a_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool, shown: str
) -> None:
    path = tmp_path / "x.lock"
    monkeypatch.setattr(lock, "STOPPED_S", 0.0)
    with stopped_holder(path) as holder:
        if not is_stopped:
            monkeypatch.setattr(lock, "HELD_S", 0.0)
            monkeypatch.setattr(lock, "_is_stopped", lambda pid: False)
        with pytest.raises(LockHeldError, match=f"process {holder.pid} {shown}"), locked_within_limits(path):
            pass
    with locked_within_limits(path):
        pass


def test_each_use_handles_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LocksUnsupportedError, match=r"No locks available: .*x\.lock"), locked(tmp_path / "x.lock"):
        pass
    for first in (True, False):  # a run is then protected by the folder of its attempt alone
        with lock_run(tmp_path, first=first) as file:
            assert not file.closed
    with pytest.raises(InputError, match=r"without locks \(No locks available\)"), Ledger(tmp_path).locked():
        pass
    with (tmp_path / "follow.lock").open(MODE) as file:
        assert follow_sweep._is_first(file)


def test_a_lock_file_that_cannot_be_opened_is_not_taken_for_missing_locks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing" / "x.lock"):
        pass
    with pytest.raises(FileNotFoundError), Ledger(tmp_path / "missing").locked():
        pass


def test_a_holder_that_was_stopped_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with locked_patiently(path, 10), locked_patiently(path, 0.05):
        with pytest.raises(BlockingIOError), locked(path, blocking=False):
            pass
        with pytest.raises(ValueError, match="of the body"), locked_patiently(path, 0.05):
            raise ValueError("of the body")
    with locked(path, blocking=False):
        pass


def test_a_lock_file_that_is_removed_while_others_wait_excludes_them_still(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holders, most = [0], [0]

    def hold() -> None:
        for _ in range(5):
            with locked_patiently(path, 10):
                holders[0] += 1
                most[0] = max(most[0], holders[0])
                time.sleep(0.001)
                holders[0] -= 1

    with path.open(MODE) as first:
        acquire(first)
        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        path.unlink()
        for thread in threads:
            thread.join()
    assert most == [1]
