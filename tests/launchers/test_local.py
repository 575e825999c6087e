from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.base import AttemptSpec, LaunchError, module_command
from launchers.local import Local
from launchers.processes.process import TrainingProcess
from tests.support.waiting import wait_until

WAITING = "import sys, signal; print(sys.stdin.readline(), end='', flush=True); signal.pause()"


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a process that only prints its assignment, in place of a training process."""
    start = subprocess.Popen

    def started(command: list[str], **options: object) -> object:
        assert command == [sys.executable, "-P", *module_command("experiments.launch.training_process")]
        return start([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("launchers.processes.process.subprocess.Popen", started)


def wait_for_end(process: TrainingProcess) -> int | None:
    wait_until(lambda: process.poll() is not None, "the end of the process", pause_s=0.01)
    out = process._process.stdout
    if out is not None:
        out.close()
    return process.poll()


@pytest.mark.usefixtures("as_process")
def test_a_process_reads_its_assignment_as_one_line() -> None:
    process = Local().launch(AttemptSpec(Path("/runs/single/ab"), 3, ("mine",)))
    assert isinstance(process, TrainingProcess)
    assert process._process.stdout is not None
    assignment = {"folder": "/runs/single/ab", "attempt": 3, "trust": ["mine"]}
    assert json.loads(process._process.stdout.readline()) == assignment | {
        "rank": {"number": 0, "local_rank": 0, "local_world_size": 1, "rendezvous": ""}
    }
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid, "Ctrl-C of the terminal must reach only the launching side"
    process.signal(signal.SIGKILL)
    assert wait_for_end(process) == -signal.SIGKILL
    process.signal(signal.SIGTERM)  # the process has ended


@pytest.mark.usefixtures("as_process")
def test_a_prestarted_process_is_used_once() -> None:
    launcher = Local()
    launcher.prestart()
    prestarted = launcher._prestarted
    processes = [launcher.launch(AttemptSpec(Path("/x"), number)) for number in (1, 2)]
    assert all(isinstance(process, TrainingProcess) for process in processes)
    assert processes[0] is prestarted
    assert processes[1] is not prestarted
    launcher.discard()
    assert [process.poll() for process in processes] == [None, None], "a process with an assignment continues"
    for process in processes:
        process.signal(signal.SIGKILL)
        assert isinstance(process, TrainingProcess)
        assert wait_for_end(process) == -signal.SIGKILL


@pytest.mark.usefixtures("as_process")
def test_an_unused_prestarted_process_is_discarded() -> None:
    launcher = Local()
    launcher.prestart()
    process = launcher._prestarted
    assert process is not None
    launcher.discard()
    assert wait_for_end(process) == -signal.SIGKILL


@pytest.mark.usefixtures("as_process")
def test_an_early_signal_waits_until_the_process_has_its_handlers() -> None:
    process = TrainingProcess()
    process.signal(signal.SIGTERM)  # the stand-in never unblocks it
    process.assign(AttemptSpec(Path("/x"), 1))
    assert process._process.stdout is not None
    assert process._process.stdout.readline()
    assert process.poll() is None
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT} == set()
    process.signal(signal.SIGKILL)
    assert wait_for_end(process) == -signal.SIGKILL


def test_a_process_that_ends_before_its_assignment_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process = TrainingProcess()
    process._process.wait()
    with pytest.raises(
        LaunchError, match="the training process ended with code 1 before it started to train; see its output above"
    ):
        process.assign(AttemptSpec(Path("/x"), 1))
    assert wait_for_end(process) == 1


def test_a_machine_that_refuses_a_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/not/there")
    with pytest.raises(LaunchError, match="could not be started: No such file or directory"):
        TrainingProcess()
