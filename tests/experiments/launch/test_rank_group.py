"""Runs of several ranks from the user's view: curves, logs, killed ranks, stops, and resumes in another topology."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import psutil
import pytest

from experiments.cli.main import main
from experiments.launch import rank_group
from experiments.run import journal
from launchers.base import RankPlacement
from tests.support.live import Live
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from experiments.launch.wakeup import SignalWaiter
    from tests.conftest import Lathe

SMALL = (
    "tracking=off", "model=mlp", "model.hidden_sizes=[512,512]", "batch_size_global=24", "log_every_steps=1",
    "eval_every_steps=200", "optimizer=sgd", "optimizer.lr=0.002",
)  # fmt: skip
NUM_STEPS = "max_steps=400"
TWO = "hardware.devices_per_node=2"
NOTHING, NOISE = b"", b"\xff" * 200 + b"\n"
BREAKS = """
import torch.distributed as dist
from modules.model.mlp import Mlp

class Breaks(Mlp):
    steps = 0
    recomputed = ("steps",)
    def forward(self, inputs):
        self.steps += 1
        if dist.is_initialized() and dist.get_rank() == 1 and self.steps > 3:
            raise RuntimeError("this rank breaks on purpose")
        return super().forward(inputs)
"""


def curve(folder: Path, key: str = "train/loss_nats") -> dict[int, float]:
    return {
        event["step"]: event["metrics"][key]
        for event in journal.replay(folder)
        if event["event"] == "metrics" and key in event["metrics"]
    }


def test_leader_drops_strangers_and_its_file_is_private_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = RankPlacement(worker="w", rank=0, world_size=3)
    waiter = cast("SignalWaiter", SimpleNamespace(stop_signal=None, wait=time.sleep))
    monkeypatch.setattr(os, "fsync", lambda descriptor: modes.extend(map(mode, tmp_path.iterdir())))
    modes: list[int] = []
    strangers: list[socket.socket] = []

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def join(rank: int) -> None:
        path = rank_group.leader_file(tmp_path, own)
        while not path.exists():
            time.sleep(0.01)
        address = json.loads(path.read_text())
        for said in (NOTHING, NOISE, b'{"rank": 1}\n', b'{"rank": 1, "token": "x"}\n'):
            strangers.append(socket.create_connection((address["address"], address["port"])))
            strangers[-1].sendall(said)
        followers[rank] = rank_group._connect(replace(own, rank=rank), tmp_path, waiter)

    followers: dict[int, tuple[rank_group.LineConnection, str]] = {}
    threads = [threading.Thread(target=join, args=(rank,)) for rank in (1, 2)]
    for thread in threads:
        thread.start()
    group = rank_group.RankGroup(own, tmp_path, waiter)
    for thread in threads:
        thread.join()
    assert modes
    assert {*modes} == {0o600}
    followers[2][0].send({"ended": 3})
    assert group._followers[2].receive() == [{"ended": 3}]
    assert group.is_complete
    group.close()
    for connection in (*strangers, *(follower.connection for follower, _ in followers.values())):
        connection.close()


def find_rank_pids(live: Live) -> list[int]:
    """Return the process ids of the ranks, in the order in which they were started."""
    processes = [each for each in map(psutil.Process, live.processes()) if each.name() == "training_process"[:15]]
    return [each.pid for each in sorted(processes, key=lambda each: (each.create_time(), each.pid))]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Path:
    """The same training in a single process."""
    live = Live(tmp_path_factory.mktemp("single"), preloaded)
    assert live.start("run", *SMALL, NUM_STEPS).wait(PATIENCE_S) == 0
    return live.run_folder()


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["data", pytest.param("zero2", marks=only_long), pytest.param("pipeline", marks=only_long)]
)
def test_a_killed_rank_ends_the_run_at_once_and_a_resume_continues_it(option: str, live: Live, single: Path) -> None:
    process = live.start("run", *SMALL, NUM_STEPS, f"parallel={option}", TWO, "checkpoint.every_steps=20")
    live.at_step(45)
    live.until(lambda: next(live.run_folder().glob("checkpoints/step_*"), None))  # a thread writes it
    victim = find_rank_pids(live)[1]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1
    live.until_nothing_runs()
    folder = live.run_folder()
    assert "killed: rank 1 was ended by SIGKILL" in live.printed()
    assert "Traceback" not in live.printed()
    assert live.start("resume", folder.name).wait(PATIENCE_S) == 0
    assert "resumed after step" in live.printed()
    ours, theirs = curve(folder), curve(single)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_the_line_of_the_rank_that_failed_comes_first(lathe: Lathe, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BREAKS)
    done = lathe("run", *SMALL, "model._target_=mine.Breaks", "--trust", "mine", "parallel=data", TWO)
    assert done.returncode == 1
    log = next(tmp_path.glob("runs/single/*/attempts/1/log_rank_1.txt"))
    assert done.stderr == (
        f"failed: rank 1: RuntimeError: this rank breaks on purpose (mine.py:11); the traceback is in {log}\n"
    )
    forwarded = re.findall(r"^\[rank \d\] .*", done.stdout, re.MULTILINE)
    assert forwarded[0] == f"[rank 1] {tmp_path}/mine.py:11, in forward"
    assert [line for line in forwarded if line.startswith("[rank 0] this rank ends, because another rank has ended: ")]
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_ranks_stop_at_the_same_step_and_resume_in_another_topology(
    live: Live, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = live.start("run", *SMALL, NUM_STEPS, "parallel=zero1", TWO, "grad_clip_norm=null")
    live.at_step(40)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 1
    assert re.search(r"interrupted: SIGTERM after step \d+, which is saved", live.printed())
    folder = live.run_folder()
    live.until_nothing_runs()
    monkeypatch.chdir(live.folder)
    for overrides in (["parallel=nothing"], ["optimizer.lr=1"], ["parallel=pipeline", "parallel.pipe=3"]):
        assert main(["resume", folder.name, *overrides]) == 2
    assert live.start("resume", folder.name, "parallel=pipeline").wait(PATIENCE_S) == 0
    ours, theirs = curve(folder), curve(single)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert curve(folder, "test/accuracy_top1") == pytest.approx(curve(single, "test/accuracy_top1"))
    assert {"perf/memory_peak_gib", "perf/rank_1_memory_peak_gib"} <= {
        key for event in journal.replay(folder) if event["event"] == "metrics" for key in event["metrics"]
    }


@pytest.mark.slow
def test_ranks_save_and_stop_if_their_launcher_is_killed(live: Live) -> None:
    process = live.start("run", *SMALL, "max_steps=1000000", "parallel=data", TWO)
    live.at_step(30)
    process.kill()
    process.wait()
    live.until_nothing_runs()
    states = [event for event in journal.replay(live.run_folder()) if event["event"] == "state"]
    assert states[-1]["state"] == "interrupted"
    assert "the launching process has ended" in str(states[-1]["reason"])
    assert list(live.run_folder().glob(f"checkpoints/step_{states[-1]['step']:08d}"))
