"""`lathe show`, `status`, `logs` and `cancel` of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.trial.trial import Trial
from tests.conftest import Lathe
from tests.support.ledgers import claim_trial, make_idle_sweep
from tests.support.live import Live
from tests.support.stores import log_steps, make_run, rewrite_states, start_attempt, write_outcome


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A run that failed at step 2, was resumed, and finished at step 4."""
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    trial = make_run(tmp_path, max_steps=4, hardware={"nodes": 1}, tags={"team": "vision"})
    with start_attempt(trial) as journal:
        log_steps(journal, range(1, 3))
        journal.state("failed", step=2, attempt=1, reason="no disk")
    with start_attempt(trial, 2, step=1) as journal:
        log_steps(journal, range(2, 5), offset=-2.0)
        journal.metrics(4, {"val/accuracy_top1": 0.5})
        journal.state("finished", step=4, attempt=2)
    (trial.folder / "attempts" / "1" / "log.txt").write_text("first\n")
    (trial.folder / "attempts" / "2" / "log.txt").write_text("second\n")
    (trial.folder / "attempts" / "2" / "changed.yaml").write_text("num_data_workers: 2\n")
    write_outcome(trial, number=2)
    return trial


def test_show_prints_attempts_and_metrics(run: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "a1b2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "run a1b2c3 of 'blobs': finished" in shown
    assert "overrides model=mlp optimizer.lr=1e-5" in shown
    assert "tags team=vision" in shown
    assert "lathe at 0123abcd0123 with uncommitted changes" in shown
    assert "no disk" in shown
    assert "changed: num_data_workers=2" in shown
    assert "lathe resume" not in shown


def test_json_counts_repeated_steps_once(run: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "a1b2c3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metrics"]["train/loss_nats"] == {"last": 2.0, "step": 4, "min": 1.0, "max": 2.0}
    assert [(one["number"], one["state"], one["step"]) for one in document["attempts"]] == [
        (1, "failed", 2), (2, "finished", 4),
    ]  # fmt: skip
    assert document["size_bytes"] > 500
    assert main(["status", "a1b2c3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_a_run_that_ended_without_a_word_is_killed_and_can_be_resumed(
    run: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "outcome.json").unlink()
    path = run.folder / "attempts" / "2" / "journal.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    rewrite_states(path, pid=2**22 + 1)
    assert main(["status", "a1b2c3"]) == 0
    shown = capsys.readouterr().out
    assert "killed" in shown
    assert "lathe resume a1b2c3" in shown


def test_logs_of_a_run_are_those_of_its_newest_attempt(run: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "a1b2c3"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("second\n", "run a1b2c3: attempt 2, finished\n")
    assert main(["logs", "a1b2c3", "--attempt", "1", "--follow"]) == 0
    assert capsys.readouterr().out == "first\n"


def test_cancel_leaves_a_finished_run_alone(run: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel", "a1b2c3"]) == 0
    assert capsys.readouterr().out.startswith("run a1b2c3 is not running (attempt 2, finished)")
    assert not (run.folder / "attempts" / "2" / "cancel").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["logs", "a1b2c3", "pending"], "pending: 'a1b2c3' is a run, not a sweep"),
        (["logs", "a1b2c3", "--workers"], "--workers: 'a1b2c3' is a run, and only a sweep has workers"),
        (["logs", "a1b2c3", "--attempt", "3"], "run a1b2c3 has no such attempt; its attempts are 1, 2"),
        (["logs", "a1b2c3", "--rank", "2"], "attempt 2 of run a1b2c3 has no such rank; it has only rank 0"),
        (["cancel", "a1b2c3", "running"], "running: 'a1b2c3' is a run, not a sweep"),
        (["status", "a1b2c3", "--failed"], "--failed selects trials of a sweep, but 'a1b2c3' is a run"),
        (["show", "a1-sweep"], "'a1-sweep' is a sweep; `lathe status a1-sweep` shows it"),
        (["status", "a1"], "'a1' can be the run 'a1b2c3' or the sweep 'a1-sweep'"),
        (["status", "a2b2c3"], "there is no run and no sweep 'a2b2c3'"),
    ],
)
def test_wrong_arguments_are_explained(
    run: Trial, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_idle_sweep(run.runs_dir, "a1-sweep", [{"optimizer.lr": 0.1}])
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_trial_of_a_sweep_is_shown_with_the_state_in_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    sweep = make_idle_sweep(tmp_path, "s", [{"optimizer.lr": 0.1}])
    (claim_trial(sweep, "b00000000000") / "log.txt").write_text("of the trial\n")
    folder = sweep.folder / "b00000000000"
    (folder / "trial.yaml").write_text("name: t\ndata: {_target_: d}\nhardware: {nodes: 1}\n")
    (folder / "provenance.yaml").write_text("trial_id: b0\n")
    assert main(["show", "b00000000000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], document["sweep"], document["resume"]) == ("running", "s", "lathe resume s")
    assert main(["logs", "b00000000000"]) == 0
    assert capsys.readouterr().out == "of the trial\n"


def test_a_detached_run_goes_on_alone_until_it_is_cancelled(live: Live, lathe: Lathe) -> None:
    done = lathe(
        "run", "model=softmax", "max_steps=1000000", "log_every_steps=1", "tracking=off", "runs_dir=runs", "--detach"
    )
    name = live.run_folder().name
    assert (done.returncode, f"run {name} trains in the background, as process" in done.stdout) == (0, True), (
        done.stderr
    )
    live.at_step(2)
    again = lathe("resume", name, "--detach", "--runs-dir", "runs")
    assert (again.returncode, f"run '{name}' is still running" in again.stderr) == (2, True)
    done = lathe("cancel", name, "--runs-dir", "runs")
    assert (done.returncode, "which is saved; `lathe resume " in done.stdout) == (0, True)
    assert list((live.run_folder() / "checkpoints").glob("step_*"))
    live.until(lambda: not live.processes() or None)
    assert "stopping: the training ends after this step" in lathe("logs", name, "--runs-dir", "runs").stdout
