"""What MLflow shows of runs whose files were removed while they trained."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run import folder_watch
from experiments.sweep.sweep import Sweep
from experiments.tracking.follow_run import follow
from experiments.tracking.run_sync import sync_run
from experiments.tracking.sweep_sync import SweepSync
from tests.support import ledgers
from tests.support.recorded_sweeps import (
    make_swept,
    read_children,
    read_journal_points,
    read_run_tags,
    read_stored_points,
    run_trial,
    start_trial,
)
from tests.support.stores import (
    log_steps,
    make_expected_metrics,
    make_run,
    read_metrics,
    read_status,
    read_tags,
    sql,
    start_attempt,
    write_outcome,
)

(TRIAL,) = ledgers.ids(1)
REASON = "its folder is gone"


def remove_trial(sweep: Sweep) -> None:
    shutil.rmtree(sweep.folder / TRIAL)


def remove_attempt(sweep: Sweep) -> None:
    shutil.rmtree(sweep.folder / TRIAL / "attempts" / "1")


def remove_journal(sweep: Sweep) -> None:
    (sweep.folder / TRIAL / "attempts" / "1" / "journal.jsonl").unlink()


def remove_journal_and_progress(sweep: Sweep) -> None:
    remove_journal(sweep)
    (sweep.folder / TRIAL / "sync.json").unlink()


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("harm", [remove_trial, remove_attempt, remove_journal, remove_journal_and_progress])
def test_trial_whose_files_were_removed_is_marked_and_run_again_as_another_run(
    runs_dir: Path, harm: Callable[[Sweep], None], is_marked: bool
) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.001}])
    start_trial(sweep, TRIAL)
    ledgers.log_metric(sweep, TRIAL, {50: 0.1, 100: 0.2})
    SweepSync(sweep).sync()
    harm(sweep)
    ledgers.end_trial(sweep, TRIAL, "failed", failure="data lost", reason=REASON)
    if is_marked:
        assert SweepSync(sweep).sync().failures == ()
        marked = {"lathe.state": "failed", "lathe.failure": "data lost", "lathe.reason": REASON}
        assert marked.items() <= read_run_tags(runs_dir, "lr=0.001").items()
        assert read_children(runs_dir) == {"lr=0.001": "FAILED"}
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.retry([TRIAL])
    run_trial(sweep, TRIAL, 0.5, steps=(50, 100, 150))
    assert SweepSync(sweep).sync().failures == ()
    assert read_children(runs_dir) == {"lr=0.001 (data lost)": "FAILED", "lr=0.001": "FINISHED"}
    again = {point for point in read_stored_points(runs_dir) if point[3] == 0.5}
    assert again == {point for point in read_journal_points(sweep) if point[3] == 0.5}
    assert len(again) == 3
    assert read_run_tags(runs_dir, "lr=0.001 (data lost)")["lathe.failure"] == "data lost"
    assert SweepSync(sweep).sync().points == 0


def test_store_keeps_a_finished_run_whose_journal_was_removed_later(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    write_outcome(trial)
    sync_run(trial)
    (trial.folder / "attempts" / "1" / "journal.jsonl").unlink()
    sync_run(trial)
    assert read_metrics(runs_dir) == make_expected_metrics(range(3))
    assert sql(runs_dir / "mlflow.db", "select count(*) from runs") == [(1,)]


def test_follower_marks_a_run_whose_folder_is_gone(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder_watch, "GONE_S", 0.0)
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))

    def remove(line: str) -> None:  # once the run is in the store
        shutil.rmtree(trial.folder)

    assert follow(trial, 1, threading.Event(), say=remove) == 1
    assert "is gone, so nothing more is copied" in capsys.readouterr().err
    assert (read_status(runs_dir), read_tags(runs_dir)["lathe.failure"]) == ("FAILED", "data lost")
    assert not trial.folder.exists()
