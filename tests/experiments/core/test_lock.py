"""Locks between processes: which exclude each other, and when the kernel releases them."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.core.lock import MODE, LocksUnsupportedError, acquire, locked, locked_patiently
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
