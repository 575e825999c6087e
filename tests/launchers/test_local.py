from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.base import AttemptSpec, LaunchError
from launchers.local import Local
from launchers.processes.process import Job

WAITING = "import sys, signal; print(sys.stdin.readline(), end='', flush=True); signal.pause()"


@pytest.fixture
def as_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started is a process that only prints its assignment."""
    start = subprocess.Popen

    def started(command: list[str], **options: object) -> object:
        assert command == [sys.executable, "-P", "-m", "experiments.launch.training_process"]
        return start([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("launchers.processes.process.subprocess.Popen", started)


def ended(job: Job) -> int | None:
    for _ in range(500):
        if job.poll() is not None:
            break
        time.sleep(0.01)
    out = job._process.stdout
    if out is not None:
        out.close()
    return job.poll()


@pytest.mark.usefixtures("as_job")
def test_a_job_is_told_its_assignment_by_a_line() -> None:
    job = Local().launch(AttemptSpec(Path("/runs/single/ab"), 3, ("mine",)))
    assert isinstance(job, Job)
    assert job._process.stdout is not None
    order = {"folder": "/runs/single/ab", "attempt": 3, "trust": ["mine"]}
    assert json.loads(job._process.stdout.readline()) == order | {
        "rank": {"number": 0, "on_node": 0, "per_node": 1, "meeting": ""}
    }
    assert job.poll() is None
    assert os.getsid(job.pid) == job.pid, "Ctrl-C of the terminal must reach the launching side alone"
    job.signal(signal.SIGKILL)
    assert ended(job) == -signal.SIGKILL
    job.signal(signal.SIGTERM)  # nobody is there any more


@pytest.mark.usefixtures("as_job")
def test_a_process_that_was_started_ahead_is_used_once() -> None:
    launcher = Local()
    launcher.warm()
    warm = launcher._warm
    jobs = [launcher.launch(AttemptSpec(Path("/x"), number)) for number in (1, 2)]
    assert all(isinstance(job, Job) for job in jobs)
    assert jobs[0] is warm
    assert jobs[1] is not warm
    launcher.dismiss()
    assert [job.poll() for job in jobs] == [None, None], "what has an assignment goes on"
    for job in jobs:
        job.signal(signal.SIGKILL)
        assert isinstance(job, Job)
        assert ended(job) == -signal.SIGKILL


@pytest.mark.usefixtures("as_job")
def test_what_was_warmed_and_not_used_is_dismissed() -> None:
    launcher = Local()
    launcher.warm()
    job = launcher._warm
    assert job is not None
    launcher.dismiss()
    assert ended(job) == -signal.SIGKILL


@pytest.mark.usefixtures("as_job")
def test_an_early_signal_waits_until_the_job_can_answer() -> None:
    job = Job()
    job.signal(signal.SIGTERM)  # this one never unblocks it
    job.assign(AttemptSpec(Path("/x"), 1))
    assert job._process.stdout is not None
    assert job._process.stdout.readline()
    assert job.poll() is None
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT} == set()
    job.signal(signal.SIGKILL)
    assert ended(job) == -signal.SIGKILL


def test_a_job_that_ended_before_its_assignment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    job = Job()
    job._process.wait()
    with pytest.raises(LaunchError, match="the job ended with code 1 before it began; what it printed stands above"):
        job.assign(AttemptSpec(Path("/x"), 1))
    assert ended(job) == 1


def test_a_machine_that_refuses_a_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/not/there")
    with pytest.raises(LaunchError, match="could not be started: No such file or directory"):
        Job()
