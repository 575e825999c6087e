"""`lathe rm` and `lathe gc`: what they delete, what they refuse, and that an interrupted removal is finished."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from experiments.cli.main import main
from experiments.results.remove import removal
from experiments.run.checkpoint import Checkpoints
from experiments.run.lock import lock_run
from experiments.sweep.sweep import Sweep
from experiments.tracking.run_sync import sync_run
from experiments.tracking.store_uri import StoreError
from experiments.tracking.sweep_sync import SweepSync
from experiments.trial.trial import Trial
from tests.support.ledgers import claim_trial
from tests.support.recorded_sweeps import make_swept, run_trial
from tests.support.stores import DEAD_PID, log_steps, make_run, rewrite_states, sql, start_attempt, write_outcome

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def make_ended(
    runs_dir: Path, name: str = "a1b2c3", steps: int = 2, status: Literal["finished", "failed"] = "finished"
) -> Trial:
    trial = make_run(runs_dir, name, hardware={"nodes": 1})
    with start_attempt(trial) as journal:
        log_steps(journal, range(1, steps + 1))
        journal.state(status, step=steps, attempt=1)
    write_outcome(trial, status)
    return trial


def count_rows(runs_dir: Path) -> list[int]:
    return [sql(runs_dir / "mlflow.db", f"select count(*) from {table}")[0][0] for table in ("runs", "metrics", "tags")]


def test_a_run_is_shown_first_and_then_deleted_with_its_mlflow_run(
    runs: Path, runs_dir: Path, capsys: Captured
) -> None:
    trial, other = make_ended(runs_dir), make_ended(runs_dir, "d4e5f6")
    for one in (trial, other):
        sync_run(one)
    artifacts = runs_dir / "artifacts" / json.loads((trial.folder / "sync.json").read_text())["run_id"]
    assert artifacts.is_dir()
    before = count_rows(runs_dir)
    assert main(["rm", "a1b2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "run a1b2c3 finished" in shown
    assert "1 run with" in shown
    assert shown.endswith("nothing is deleted yet; --yes deletes it")
    assert trial.folder.is_dir()
    assert main(["rm", "a1b2", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["is_deleted"], document["remaining"]) == (True, [])
    assert document["targets"][0]["files"]["num_files"] > 3
    assert not trial.folder.exists()
    assert not artifacts.exists()
    assert not (runs_dir / ".removed").exists()
    assert count_rows(runs_dir) == [count // 2 for count in before]
    assert other.folder.is_dir()


def test_a_sweep_is_deleted_with_the_mlflow_runs_of_its_trials(runs: Path, runs_dir: Path, capsys: Captured) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}])
    for trial in ("b00000000000", "b00000000001"):
        run_trial(sweep, trial, 0.5)
    SweepSync(Sweep(sweep.folder)).sync()
    assert count_rows(runs_dir)[0] == 3
    with (sweep.folder / "b00000000001" / "trial.yaml").open("a") as file:
        file.write("hardware: {nodes: 1}\n")
    assert main(["rm", "b00000000001"]) == 2
    assert "is a trial of sweep 'probe', whose table and report need it" in capsys.readouterr().err
    assert main(["rm", "prob", "--yes"]) == 2
    assert "'prob' is only the beginning of a name; write `probe` to delete that sweep" in capsys.readouterr().err
    assert main(["rm", "probe", "--yes"]) == 0
    assert "sweep probe with 2 trials" in " ".join(capsys.readouterr().out.split())
    assert not sweep.folder.exists()
    assert count_rows(runs_dir) == [0, 0, 0]


def test_what_is_running_or_the_origin_of_others_is_refused(runs: Path, capsys: Captured) -> None:
    parent, child, live = make_ended(runs), make_ended(runs, "d4e5f6"), make_ended(runs, "0a0a0a")
    link = {"continues": {"run": "a1b2c3", "run_key": "key-of-a1b2c3"}}
    (child.folder / "provenance.yaml").write_text(yaml.safe_dump({**child.provenance, **link}))
    sweep = make_swept(runs, [{"optimizer.lr": 0.1}])
    claim_trial(sweep, "b00000000000")
    remote = make_run(runs, "fefefe", hardware={"nodes": 1})
    start_attempt(remote).close()
    rewrite_states(remote.folder / "attempts" / "1" / "journal.jsonl", host="another", pid=DEAD_PID)
    with lock_run(live.folder):
        assert main(["rm", "a1b2c3", "0a0a0a", "probe", "fefefe", "--yes"]) == 2
    problems = capsys.readouterr().err
    assert "run '0a0a0a' is running; `lathe cancel 0a0a0a` lets it save and stop" in problems
    assert "sweep 'probe' is running 1 trial; `lathe cancel probe` ends it" in problems
    assert "run 'fefefe' may be running on another" in problems
    assert "run 'a1b2c3' is the origin of others: run 'd4e5f6' continues it" in problems
    assert all(one.folder.is_dir() for one in (parent, live, sweep, remote))
    (runs / "earlier").mkdir()
    shutil.move(make_ended(runs, "0b0b0b").folder, runs / "earlier" / "0b0b0b")
    with (ledger := sweep.ledger()).locked():
        reused = {"folder": str(runs / "earlier" / "0b0b0b"), "value": 0.5}
        ledger.add([{"trial": "b00000000001", "point": 1, "values": {}, "seed": 0, "reused": reused}])
    assert main(["rm", "0b0b0b"]) == 2
    assert "sweep 'probe' reuses results, and its report shows the curves" in capsys.readouterr().err
    assert main(["rm", "a1b2c3", "d4e5f6", "--yes"]) == 0  # together
    assert main(["rm", "fefefe", "--force", "--yes"]) == 0
    assert not any(one.folder.exists() for one in (parent, child, remote))
    assert main(["rm", "0a0a0", "nosuch"]) == 2
    assert "there is no run and no sweep 'nosuch'" in capsys.readouterr().err


def test_only_runs_in_the_folder_of_runs_are_deleted(runs: Path, tmp_path: Path, capsys: Captured) -> None:
    elsewhere = make_ended(tmp_path / "elsewhere")
    (runs / "single").mkdir(exist_ok=True)
    (runs / "single" / "linked").symlink_to(elsewhere.folder)
    for name in ("linked", str(elsewhere.folder)):
        assert main(["rm", name, "--yes"]) == 2
        assert "if you mean it, add --runs-dir" in capsys.readouterr().err
    trial, precious = make_ended(runs, "d4e5f6"), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (trial.folder / "checkpoints").symlink_to(precious)
    assert main(["gc", "--checkpoints", "--failed", "0", "--yes"]) == 0
    assert main(["rm", "d4e5f6", "--yes"]) == 0
    assert (precious / "file").exists()
    assert elsewhere.folder.is_dir()


def test_gc_finishes_an_interrupted_removal(runs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_ended(runs)
    with monkeypatch.context() as patch:
        patch.setattr(
            removal, "delete_runs", lambda *args, **options: (_ for _ in ()).throw(StoreError("the server is down"))
        )
        assert main(["rm", "a1b2c3", "--yes"]) == 1
        assert "the server is down; until its MLflow runs are deleted, its folder stays in" in capsys.readouterr().err
        assert not trial.folder.exists()
        assert main(["gc", "--yes"]) == 1
    (place,) = (runs / ".removed").iterdir()
    assert (place / "a1b2c3" / "trial.yaml").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["gc", "--yes"]) == 1
    capsys.readouterr()
    assert main(["ls"]) == 0
    assert capsys.readouterr().out.startswith("there are no runs")
    assert main(["gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["garbage"][0]["kind"] == "unfinished removal of a1b2c3"
    assert main(["gc", "--yes"]) == 0
    assert not (runs / ".removed").exists()
    capsys.readouterr()
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == f"nothing to delete in {runs}\n"


def test_a_full_disk_does_not_stop_a_removal(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, make = make_ended(runs), Path.mkdir
    (trial.folder / "checkpoints" / "step_00000001").mkdir(parents=True)

    def refuse(self: Path, *args: Any, **options: Any) -> None:
        if ".removed" in self.parts and (trial.folder / "checkpoints").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["rm", "a1b2c3", "--yes"]) == 0
    assert not trial.folder.exists()


def test_gc_deletes_left_overs_old_checkpoints_and_runs_without_a_step(runs: Path, capsys: Captured) -> None:
    trial, early, running = make_ended(runs), make_ended(runs, "d4e5f6", 0, "failed"), make_run(runs, "0a0a0a")
    start_attempt(running).close()
    for one in (trial, running):
        checkpoints = Checkpoints(one.folder, keep_last=9)
        for step in range(1, 5):
            checkpoints.save(step, lambda folder: folder.joinpath("model.safetensors").touch(), {})
        checkpoints.mark_best(2, "val/loss_nats", 0.5, "min")
    (trial.folder / "checkpoints" / ".partial-9").mkdir()
    (trial.folder / ".sync.json.0123abcd.partial").touch()
    damaged = make_ended(runs, "b00b1e")
    shutil.copytree(trial.folder / "checkpoints", damaged.folder / "checkpoints")
    (damaged.folder / "checkpoints" / "best.json").write_text("{")
    shutil.rmtree(damaged.folder / "checkpoints" / ".partial-9")
    assert main(["gc", "--failed", "3", "--json"]) == 0
    assert [one["kind"] for one in json.loads(capsys.readouterr().out)["garbage"]] == [
        "temporary file", "incomplete checkpoint",
    ]  # fmt: skip
    assert main(["gc", "--failed", "0", "--checkpoints", "--yes"]) == 0
    assert "without a step" in capsys.readouterr().out
    assert Checkpoints(trial.folder, keep_last=1).list_steps() == [2, 4]
    assert Checkpoints(damaged.folder, keep_last=1).list_steps() == [1, 2, 3, 4]  # which one is the best?
    assert Checkpoints(running.folder, keep_last=1).list_steps() == [1, 2, 3, 4]
    assert sorted(path.name for path in (trial.folder / "checkpoints").iterdir()) == [
        "best.json", "step_00000002", "step_00000004",
    ]  # fmt: skip
    assert not early.folder.exists()
    assert running.folder.is_dir()
    assert not (trial.folder / ".sync.json.0123abcd.partial").exists()
