"""The ranks of one machine get their numbers, end together, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from launchers.base import AttemptSpec, LaunchError
from launchers.local import Local
from launchers.processes.cleanup import SHARED_MEMORY
from launchers.processes.process_group import LocalRanks
from tests.support.waiting import PATIENCE_S, wait_until

ACTS = """
import json, os, signal, subprocess, sys, time
rank = json.loads(sys.stdin.readline())["rank"]
acts = sys.argv[1].split(",")
act = acts[rank["number"]]
def wait_for(*names):
    while not all(os.path.exists(f"{sys.argv[2]}/{name}") for name in names):
        time.sleep(0.01)
def write(name, text):
    open(f"{sys.argv[2]}/{name}.part", "w").write(text)
    os.rename(f"{sys.argv[2]}/{name}.part", f"{sys.argv[2]}/{name}")
write(rank["number"], json.dumps(rank | {"pid": os.getpid()}))
wait_for(*range(len(acts)))
if act == "leaves_shared_memory":
    open(f"/dev/shm/torch_{os.getpid()}_1_0", "w").write("x")
if act == "has_child":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    write("child", str(child.pid))
if act.endswith("_later"):
    wait_for("go")
if act.startswith("aborts"):
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
    wait_until((folder / str(rank)).exists, f"rank {rank}", pause_s=0.01)
    written: dict[str, Any] = json.loads((folder / str(rank)).read_text())
    return written


def wait_for_end(handle: LocalRanks) -> int:
    return wait_until(lambda: None if (code := handle.poll()) is None else (code,), "the end", pause_s=0.01)[0]


def wait_for_exit(folder: Path, rank: int) -> None:
    """Wait until a rank has ended, without the handle noticing it."""
    process = psutil.Process(read_rank(folder, rank)["pid"])
    wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, f"the end of rank {rank}", pause_s=0.01)


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


@pytest.mark.parametrize("is_noticed_first", [False, True])
def test_a_killed_rank_takes_precedence_over_one_that_failed_before(
    is_noticed_first: bool, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launchers.processes.exit_cause.GRACE_S", PATIENCE_S)
    handle = start("exits1", "killed_later")
    wait_for_exit(tmp_path, 0)
    if is_noticed_first:
        assert handle.poll() is None
    (tmp_path / "go").touch()
    wait_for_exit(tmp_path, 1)
    assert wait_for_end(handle) == -signal.SIGKILL
    assert handle.failed_rank == 1


@pytest.mark.parametrize("act", ["aborts_later", "sleeps"])
def test_a_rank_that_aborts_later_or_that_we_kill_is_not_the_cause(act: str, start: Any, tmp_path: Path) -> None:
    handle = start("exits1", act)
    wait_until(lambda: handle.poll() is None and handle.failed_rank == 0, pause_s=0.01)
    (tmp_path / "go").touch()
    if act == "sleeps":
        handle.signal(signal.SIGKILL)
    assert wait_for_end(handle) == 1
    assert handle.failed_rank == 0


def test_children_and_shared_memory_of_a_rank_are_removed(start: Any, tmp_path: Path) -> None:
    handle = start("leaves_shared_memory", "has_child")
    pid = read_rank(tmp_path, 0)["pid"]
    read_rank(tmp_path, 1)
    wait_until((tmp_path / "child").exists, "the child of rank 1", pause_s=0.01)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    handle.signal(signal.SIGKILL)
    assert wait_for_end(handle) == -signal.SIGKILL
    child.wait(PATIENCE_S)
    assert list(SHARED_MEMORY.glob(f"torch_{pid}_*")) == []


def test_no_rank_is_left_when_the_machine_refuses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, pids = subprocess.Popen, list[int]()

    def started(command: list[str], **options: Any) -> Any:
        if len(pids) == 2:
            raise OSError(11, os.strerror(11))
        process = plain([sys.executable, "-c", "import time; time.sleep(100)"], **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr("launchers.processes.process.subprocess.Popen", started)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other tests make such folders at the same time
    with pytest.raises(LaunchError, match="could not be started: Resource temporarily unavailable; free memory"):
        Local().launch(AttemptSpec(Path("/x"), 1, ranks_per_node=4))
    assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert list(tmp_path.iterdir()) == []


def test_more_than_one_node_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"refused hardware\.nodes=2: .* set hardware\.nodes=1"):
        Local().launch(AttemptSpec(Path("/x"), 1, nodes=2, ranks_per_node=4))
