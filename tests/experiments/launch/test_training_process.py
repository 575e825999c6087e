"""The training process: it reads its assignment, trains, and reports how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from experiments.config.compose import compose
from experiments.launch.training_process import run_rank
from experiments.run import journal
from experiments.run.lock import lock_run
from experiments.trial.trial import Trial, freeze
from launchers.base import DONE, FAILED, JOURNAL_LOST, WRONG_INPUT
from modules.parallel.base import Rank
from tests.support.preloaded import Preloaded
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S

TINY = ("tracking=off", "model=softmax", "max_steps=5", "eval_every_steps=5")
COMMAND = [sys.executable, "-P", "-m", "experiments.launch.training_process"]


@pytest.fixture(autouse=True)
def _restore_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training process gives up its standard input and the debugger; here it is the process of the tests."""
    for name in ("stdin", "breakpointhook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


def prepared(tmp_path: Path, *overrides: str) -> Trial:
    trial = freeze(compose([f"runs_dir={tmp_path}/runs", *TINY, *overrides]))
    (trial.folder / "attempts" / "1").mkdir(parents=True)
    return trial


def assignment(trial: Trial, attempt: int = 1) -> str:
    rank = {"number": 0, "local_rank": 0, "local_world_size": 1, "rendezvous": ""}
    return json.dumps({"folder": str(trial.folder), "attempt": attempt, "trust": [], "rank": rank}) + "\n"


def started(tmp_path: Path, server: Path | None = None) -> subprocess.Popen[str]:
    """Start the process; with a server it is a fork, which has done its imports."""
    if server is not None:
        Preloaded.address = str(server)
    return (subprocess.Popen if server is None else Preloaded)(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )


def states(trial: Trial) -> list[journal.StateEvent]:
    events = journal.read(trial.folder / "attempts" / "1" / "journal.jsonl")[0]
    return [event for event in events if event["event"] == "state"]


def test_the_process_exits_without_error_if_the_input_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND, stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (DONE, b"", b"")


def test_an_attempt_leaves_a_journal_a_log_and_checkpoints(tmp_path: Path) -> None:
    trial, process = prepared(tmp_path), started(tmp_path)
    assert process.stdin is not None
    process.stdin.write(assignment(trial))
    process.stdin.flush()  # stays open until the end, as the launching side is alive
    assert process.wait(PATIENCE_S) == DONE
    out, _ = process.communicate()
    assert out == "", "the output of the process belongs in its log"
    assert [(s["state"], s["step"], s["reason"]) for s in states(trial)] == [
        ("running", 0, None),
        ("finished", 5, None),
    ]
    events = journal.read(trial.folder / "attempts" / "1" / "journal.jsonl")[0]
    assert [event["split"] for event in events if event["event"] == "data"] == ["train", "val", "test"]
    assert (trial.folder / "attempts" / "1" / "log.txt").read_text() == ""
    assert (trial.folder / "checkpoints" / "step_00000005").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=only_long), signal.SIGTERM])
def test_a_signal_during_the_start_stops_the_training_before_the_first_step(tmp_path: Path, number: int) -> None:
    trial = prepared(tmp_path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # as the launcher does
    try:
        process = started(tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process.send_signal(number)
    assert process.stdin is not None
    process.stdin.write(assignment(trial))
    process.stdin.flush()
    assert process.wait(PATIENCE_S) == FAILED
    out, _ = process.communicate()
    assert out == ""
    assert [(s["state"], s["reason"]) for s in states(trial)] == [
        ("running", None),
        ("interrupted", f"{signal.Signals(number).name} before step 1"),
    ]


@pytest.mark.slow
def test_the_end_of_the_launcher_stops_the_training(tmp_path: Path, preloaded: Path) -> None:
    trial, process = prepared(tmp_path, "max_steps=1000000"), started(tmp_path, preloaded)
    process.communicate(assignment(trial), timeout=PATIENCE_S)  # writes the line and closes the input
    assert process.returncode == FAILED
    assert states(trial)[-1]["state"] == "interrupted"
    assert "the launching process has ended" in str(states(trial)[-1]["reason"])


def test_a_process_does_nothing_if_a_newer_attempt_exists(tmp_path: Path, preloaded: Path) -> None:
    trial, process = prepared(tmp_path), started(tmp_path, preloaded)
    (trial.folder / "attempts" / "2").mkdir()
    process.communicate(assignment(trial), timeout=PATIENCE_S)
    assert process.returncode == FAILED
    assert states(trial) == []


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"batch_size_global": 5000}, WRONG_INPUT, "batch_size_global=5000 is more than the 1297 training examples"),
        ({"model": {"_target_": "os.system"}}, WRONG_INPUT, "is not on the list of code that may run"),
        ({"checkpoint": None}, WRONG_INPUT, "trial.yaml is damaged: 'checkpoint' has a value of the wrong type"),
        ({"log_every_steps": None}, FAILED, "; the traceback is in "),
    ],
)
def test_the_journal_holds_the_error_as_one_line(
    tmp_path: Path, preloaded: Path, change: dict[str, Any], code: int, reason: str
) -> None:
    trial = prepared(tmp_path)
    (trial.folder / "trial.yaml").write_text(yaml.safe_dump({**trial.config, **change}))
    process = started(tmp_path, preloaded)
    out, _ = process.communicate(assignment(trial), timeout=PATIENCE_S)
    assert (process.returncode, out) == (code, "")
    assert states(trial)[-1]["state"] == "failed"
    assert reason in str(states(trial)[-1]["reason"])
    log = (trial.folder / "attempts" / "1" / "log.txt").read_text()
    assert reason in log
    assert ("Traceback" in log) == (code == FAILED)


def test_several_processes_share_the_lock_but_only_one_takes_it_first(tmp_path: Path) -> None:
    with lock_run(tmp_path, first=True), lock_run(tmp_path):
        with pytest.raises(BlockingIOError):
            lock_run(tmp_path, first=True)
        code = "from pathlib import Path; from experiments.run.lock import lock_run; "
        code += f"lock_run(Path({str(tmp_path)!r}), first=True)"
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert "BlockingIOError" in child.stderr
    with lock_run(tmp_path, first=True):
        pass
    # The process is killed; its data worker, a fork of it, lives on for a while.
    code = (
        "import os, sys, time; from pathlib import Path; from experiments.run.lock import lock_run\n"
        f"lock = lock_run(Path({str(tmp_path)!r}), first=True)\n"
        "ends = os.pipe()\n"
        "if os.fork() == 0: os.write(ends[1], b'1'); time.sleep(3); os._exit(0)\n"
        "os.read(ends[0], 1)\n"  # until the fork runs, it holds the lock
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S, check=False)
    with lock_run(tmp_path, first=True):
        pass
    assert os.listdir(tmp_path) == ["run.lock"]


@pytest.mark.parametrize("left", ["nothing", "run"])
def test_a_run_folder_that_is_gone_before_the_first_line_is_lost_data(tmp_path: Path, left: str) -> None:
    trial = Trial(tmp_path / "run")
    if left == "run":  # made again by another process
        trial.folder.mkdir()
    assert run_rank(trial, 1, (), Rank(0, 0, 1), mock.Mock()) == JOURNAL_LOST
    assert not (trial.folder / "attempts").exists()
