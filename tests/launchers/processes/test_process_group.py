"""The ranks of one machine get their numbers, end together, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from launchers.base import AttemptSpec, LaunchError
from launchers.local import Local
from launchers.processes.cleanup import SHARED_MEMORY
from launchers.processes.process_group import LocalRanks

ACTS = """
import json, os, signal, subprocess, sys, time
rank = json.loads(sys.stdin.readline())["rank"]
act = sys.argv[1].split(",")[rank["number"]]
open(f"{sys.argv[2]}/{rank['number']}", "w").write(json.dumps(rank | {"pid": os.getpid()}))
if act == "leaves_shared_memory":
    open(f"/dev/shm/torch_{os.getpid()}_1_0", "w").write("x")
if act == "has_child":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    open(f"{sys.argv[2]}/child", "w").write(str(child.pid))
if act == "killed_later":
    time.sleep(1)
if act == "aborts_later":
    time.sleep(1)
    os.abort()
if act.startswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
if act.startswith("exits"):
    sys.exit(int(act.removeprefix("exits")))
time.sleep(100)
"""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Starts ranks, each of which does one of the acts."""
    plain = subprocess.Popen

    def ranks(*acts: str) -> LocalRanks:
        def started(command: list[str], **options: Any) -> Any:
            return plain([sys.executable, "-c", ACTS, ",".join(acts), str(tmp_path)], **options)

        monkeypatch.setattr("launchers.processes.process.subprocess.Popen", started)
        handle = Local().launch(AttemptSpec(Path("/x"), 1, ranks_per_node=len(acts)))
        assert isinstance(handle, LocalRanks)
        return handle

    return ranks


def read_rank(folder: Path, rank: int) -> dict[str, Any]:
    """Return what a rank has written about itself; waits for it."""
    path = folder / str(rank)
    for _ in range(1000):
        if path.exists() and path.read_text():
            written: dict[str, Any] = json.loads(path.read_text())
            return written
        time.sleep(0.01)
    raise AssertionError(f"rank {rank} did not start")


def wait_for_end(handle: LocalRanks) -> int:
    for _ in range(1500):
        if (code := handle.poll()) is not None:
            return code
        time.sleep(0.01)
    raise AssertionError("the ranks did not end")


def test_every_rank_gets_its_number_and_the_same_rendezvous_url(start: Any, tmp_path: Path) -> None:
    handle = start("exits0", "exits0", "exits0")
    ranks = [read_rank(tmp_path, rank) for rank in range(3)]
    assert [rank["number"] for rank in ranks] == [rank["local_rank"] for rank in ranks] == [0, 1, 2]
    (rendezvous,) = {rank["rendezvous"] for rank in ranks}
    assert rendezvous.startswith(f"file://{tempfile.gettempdir()}/lathe-")
    assert handle.pid == ranks[0]["pid"]
    assert wait_for_end(handle) == 0
    assert handle.failed_rank is None
    assert not Path(rendezvous.removeprefix("file://")).parent.exists()


@pytest.mark.parametrize(("act", "code"), [("killed", -signal.SIGKILL), ("exits1", 1), ("exits2", 2)])
def test_when_one_rank_fails_the_others_are_ended(
    act: str, code: int, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launchers.processes.exit_cause.GRACE_S", 0.3)
    handle = start("sleeps", act, "sleeps")
    assert wait_for_end(handle) == code
    assert handle.failed_rank == 1
    assert not [rank for rank in range(3) if psutil.pid_exists(read_rank(tmp_path, rank)["pid"])]


@pytest.mark.parametrize("act", ["killed", "killed_later"])
def test_a_killed_rank_takes_precedence_over_one_that_failed_before(act: str, start: Any) -> None:
    handle = start("exits1", act)
    time.sleep(0.5)  # both ranks of the first case have ended before the first poll
    assert wait_for_end(handle) == -signal.SIGKILL
    assert handle.failed_rank == 1


def test_a_rank_that_aborts_later_or_that_we_kill_is_not_the_cause(start: Any) -> None:
    handle = start("exits1", "aborts_later")
    assert wait_for_end(handle) == 1
    handle = start("exits1", "sleeps")
    while handle.poll() is None and handle.failed_rank is None:
        time.sleep(0.01)
    handle.signal(signal.SIGKILL)
    assert wait_for_end(handle) == 1
    assert handle.failed_rank == 0


def test_children_and_shared_memory_of_a_rank_are_removed(start: Any, tmp_path: Path) -> None:
    handle = start("leaves_shared_memory", "has_child")
    pid = read_rank(tmp_path, 0)["pid"]
    read_rank(tmp_path, 1)
    for _ in range(500):
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            break
        time.sleep(0.01)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    handle.signal(signal.SIGKILL)
    assert wait_for_end(handle) == -signal.SIGKILL
    child.wait(5)
    assert list(SHARED_MEMORY.glob(f"torch_{pid}_*")) == []


def test_no_rank_is_left_when_the_machine_refuses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, pids = subprocess.Popen, list[int]()

    def started(command: list[str], **options: Any) -> Any:
        if len(pids) == 2:
            raise OSError(11, os.strerror(11))
        process = plain([sys.executable, "-c", "import time; time.sleep(100)"], **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr("launchers.processes.process.subprocess.Popen", started)
    before = set(Path(tempfile.gettempdir()).glob("lathe-*"))
    with pytest.raises(LaunchError, match="could not be started: Resource temporarily unavailable; free memory"):
        Local().launch(AttemptSpec(Path("/x"), 1, ranks_per_node=4))
    assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert set(Path(tempfile.gettempdir()).glob("lathe-*")) == before


def test_more_than_one_node_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"refused hardware\.nodes=2: .* set hardware\.nodes=1"):
        Local().launch(AttemptSpec(Path("/x"), 1, nodes=2, ranks_per_node=4))
