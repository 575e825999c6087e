"""The launching side: exit codes, error reports, MLflow's status, and runs from notebooks."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments.config.compose import compose
from experiments.core.console import Display
from experiments.core.errors import InputError
from experiments.launch.attempt_monitor import AttemptMonitor, RunResult
from experiments.launch.outcome import determine_outcome
from experiments.launch.run_trial import run
from experiments.run import folder_watch
from experiments.run.journal import Journal
from experiments.run.lock import lock_run
from experiments.trial.trial import Trial, freeze
from launchers.base import DISK_FULL, JOURNAL_LOST, AttemptSpec
from tests.support.live import Live
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.conftest import Lathe

TINY = ("tracking=off", "model=softmax", "max_steps=5", "eval_every_steps=5")
BREAKS = """
from modules.model.softmax import Softmax

class Breaks(Softmax):
    def forward(self, inputs):
        print("about to break")
        raise RuntimeError("this model\\n  breaks on purpose")
"""


def frozen(tmp_path: Path, *overrides: str) -> Trial:
    return freeze(compose([f"runs_dir={tmp_path}/runs", *TINY, *overrides]))


class Closed(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_notebook_runs_a_trial_and_gets_the_metrics_of_all_attempts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = frozen(tmp_path)
    with Journal(trial.folder / "attempts" / "1" / "journal.jsonl") as journal:
        journal.metrics(1, {"train/early": 3.0})
    result = run(trial)
    assert (result.status, result.reason, result.exit_code, result.attempt) == ("finished", None, 0, 2)
    assert {"train/loss_nats", "val/accuracy_top1", "test/accuracy_top1"} <= result.metrics.keys()
    assert result.metrics["train/early"] == 3.0
    assert "step 5/5" in capfd.readouterr().err
    assert (result.trial.outcome() or {})["status"] == "finished"


def test_a_trial_runs_from_another_thread_though_its_terminal_is_closed(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(run(frozen(tmp_path), display=Display(Closed()))))
    thread.start()
    thread.join(PATIENCE_S)
    assert [result.status for result in results] == ["finished"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.slow
def test_a_script_runs_trials_without_a_main_guard(live: Live) -> None:
    script = live.folder / "script.py"
    script.write_text(
        "from experiments.config.compose import compose\n"
        "from experiments.trial.trial import freeze\n"
        "from experiments.launch.run_trial import run\n"
        f"result = run(freeze(compose([*{TINY!r}])))\n"
        "print(result.status, sorted(result.metrics))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=live.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.startswith("finished ['cost/cpu_s'")
    assert "Warning" not in done.stderr
    live.until_nothing_runs()


def test_a_locked_run_is_refused(tmp_path: Path) -> None:
    trial = frozen(tmp_path)
    with (
        lock_run(trial.folder),
        pytest.raises(InputError, match=f"run '{trial.id}' is still running; wait for its end"),
    ):
        run(trial)
    assert trial.attempts() == []


@pytest.mark.parametrize(
    ("state", "code", "status", "reason", "exit_code"),
    [
        ("finished", 0, "finished", None, 0),
        ("finished", -11, "finished", None, 0),  # a crash after the report
        ("interrupted", 1, "interrupted", "why", 1),
        ("failed", 1, "failed", "why", 1),
        ("failed", 2, "failed", "why", 2),
        ("running", -15, "killed", "ended by SIGTERM", 1),
        (
            "running",
            -9,
            "killed",
            "ended by SIGKILL; if you did not send it, memory ran out: lower batch_size_per_device",
            1,
        ),
        (None, DISK_FULL, "failed", "is full; free space, then `lathe resume ", 1),
        (
            "running",
            3,
            "failed",
            "the training process ended with code 3 and reported no error; see its output above",
            1,
        ),
    ],
)
def test_the_report_of_an_attempt_takes_precedence_over_its_exit_code(
    tmp_path: Path, state: Any, code: int, status: str, reason: str | None, exit_code: int
) -> None:
    trial = frozen(tmp_path)
    (trial.folder / "attempts" / "1").mkdir(parents=True)
    if state is not None:
        with Journal(trial.folder / "attempts" / "1" / "journal.jsonl") as journal:
            journal.state(state, step=3, attempt=1, reason=None if state in ("finished", "running") else "why")
    monitor = AttemptMonitor(trial, 1, Display(io.StringIO()), num_ranks=1)
    monitor.update(0)
    result = monitor.result(code, was_killed_by_us=False)
    assert (result.status, result.exit_code) == (status, exit_code)
    assert result.reason == reason or (reason is not None and reason in str(result.reason))
    outcome = json.loads((trial.folder / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], outcome["attempt"]) == (status, code, 1)


@pytest.mark.slow
def test_an_error_in_a_users_model_shows_its_line_and_the_log_has_its_traceback(lathe: Lathe, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BREAKS)
    secret = "ghp_" + "s3cR" * 9
    done = lathe("run", *TINY, "model._target_=mine.Breaks", "--trust", "mine", env={"MY_TOKEN": secret})
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    log = next(tmp_path.glob("runs/single/*/attempts/1/log.txt"))
    assert done.stderr == (
        f"failed: RuntimeError: this model breaks on purpose (mine.py:7); the traceback is in {log}\n"
    )
    shown = f"about to break\n{tmp_path}/mine.py:7, in forward\n    raise RuntimeError("
    assert shown in done.stdout
    assert shown in log.read_text()
    assert "Traceback" in log.read_text()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_mlflow_shows_how_each_unfinished_run_ended(
    lathe: Lathe, live: Live, tmp_path: Path, empty_store: Path
) -> None:
    small = ("model=softmax", "log_every_steps=1", "batch_size_global=24")
    for folder in (tmp_path / "runs", tmp_path / "is_killed" / "runs", tmp_path / "is_stopped" / "runs"):
        folder.mkdir(parents=True)
        shutil.copy(empty_store, folder / "mlflow.db")
    diverges = lathe("run", *small, "model=mlp", "name=diverges", "optimizer=sgd", "optimizer.lr=1e30", "max_steps=20")
    assert diverges.returncode == 1
    assert "is not a finite number; start another run with a lower optimizer.lr" in diverges.stderr
    for name, number in (("is_killed", signal.SIGKILL), ("is_stopped", signal.SIGTERM)):
        length = ("max_steps=1000000", "log_every_steps=10")
        overrides = (*small, *length, f"name={name}", f"seed={number.value}", f"runs_dir={name}/runs")
        process = live.start("run", *overrides)
        live.folder = tmp_path / name
        job = live.at_step(30)
        live.folder = tmp_path
        os.kill(job if number == signal.SIGKILL else process.pid, number)
        assert process.wait(PATIENCE_S) == 1
    live.until_nothing_runs()  # after a stop, the command leaves the sync to its process
    statuses: dict[str, str] = {}
    for database in tmp_path.glob("**/mlflow.db"):
        with closing(sqlite3.connect(database)) as connection:
            statuses |= dict(connection.execute("select name, status from runs").fetchall())
    assert statuses == {"diverges": "FAILED", "is_killed": "KILLED", "is_stopped": "KILLED"}


@pytest.mark.parametrize(("has_started", "shown"), [(False, "ends before its first step"), (True, "after this")])
def test_a_stop_says_when_the_training_ends(tmp_path: Path, has_started: bool, shown: str) -> None:
    trial, screen = frozen(tmp_path), io.StringIO()
    if has_started:
        with Journal(trial.folder / "attempts" / "1" / "journal.jsonl") as journal:
            journal.state("running", step=0, attempt=1)
    monitor = AttemptMonitor(trial, 1, Display(screen), num_ranks=1)
    for num_signals in (0, 1, 1):
        monitor.update(num_signals)
    assert screen.getvalue().count("stopping: ") == screen.getvalue().count(shown) == 1


class Hanging:
    """A training that answers no signal but SIGKILL; its launching side gets Ctrl-C."""

    pid, failed_rank = 0, None

    def __init__(self, *, ctrl_c: bool = True) -> None:
        self.signals: list[int] = []
        self._ctrl_c = ctrl_c

    def prestart(self) -> None:
        raise AssertionError

    discard = prestart

    def launch(self, spec: AttemptSpec) -> Hanging:
        return self

    def poll(self) -> int | None:
        if self._ctrl_c:
            self._ctrl_c = False
            os.kill(os.getpid(), signal.SIGINT)
        return -signal.SIGKILL if signal.SIGKILL in self.signals else None

    def signal(self, number: int) -> None:
        self.signals.append(number)


def test_a_training_that_never_stops_is_killed(tmp_path: Path) -> None:
    hanging = Hanging()
    result = run(frozen(tmp_path, "stop_timeout_s=0.24"), launcher=hanging, display=Display(io.StringIO()))
    assert hanging.signals == [signal.SIGINT, signal.SIGKILL]
    assert (result.status, result.exit_code) == ("killed", 1)
    assert "did not stop within 0 s, so its processes were ended" in str((result.trial.outcome() or {})["reason"])


@pytest.mark.parametrize("harm", ["folder", "attempt", "renamed"])
def test_a_training_whose_folder_is_gone_ends_as_data_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(folder_watch, "GONE_S", 0.1)
    trial, hanging = frozen(tmp_path), Hanging(ctrl_c=False)

    def launch_and_harm(spec: AttemptSpec) -> Hanging:
        if harm == "renamed":
            trial.folder.rename(tmp_path / "away")
        else:
            shutil.rmtree(trial.folder / "attempts" / "1" if harm == "attempt" else trial.folder)
        return hanging

    monkeypatch.setattr(hanging, "launch", launch_and_harm)
    result = run(trial, launcher=hanging, display=Display(io.StringIO()))
    assert set(hanging.signals) == {signal.SIGKILL}
    assert (result.status, result.exit_code) == ("failed", 1)
    assert "its folder is gone" in str(result.reason)
    assert trial.folder.exists() == (harm == "attempt")
    if harm == "attempt":
        outcome = trial.outcome() or {}
        assert (outcome["status"], outcome["failure"]) == ("failed", "data lost")


@pytest.mark.parametrize(("code", "is_lost"), [(0, True), (JOURNAL_LOST, True), (DISK_FULL, False), (1, False)])
def test_nothing_that_has_no_journal_is_finished(tmp_path: Path, code: int, is_lost: bool) -> None:
    trial = frozen(tmp_path)
    (trial.folder / "attempts" / "1").mkdir(parents=True)
    finished = {"state": "finished", "reason": None}
    outcome = determine_outcome(trial, 1, finished if code == 0 else None, code, None, was_killed_by_us=False)
    assert (outcome.status, outcome.failure == "data lost") == ("failed", is_lost)


def test_a_process_that_cannot_log_its_end_because_lines_are_lost_has_lost_data(tmp_path: Path) -> None:
    trial = frozen(tmp_path)
    with Journal(trial.folder / "attempts" / "1" / "journal.jsonl"):
        outcome = determine_outcome(trial, 1, None, JOURNAL_LOST, None, was_killed_by_us=False)
    assert (outcome.status, outcome.failure) == ("failed", "data lost")
    assert "was cut off while it ran" in (outcome.reason or "")
