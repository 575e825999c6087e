"""The sync of a run with real journals, stores and servers; only training is missing."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from experiments.core import lock
from experiments.run.journal import Journal
from experiments.run.state import determine_state, is_process_alive
from experiments.tracking import mlflow_client, run_sync
from experiments.tracking.run_sync import RunSync, sync_run
from experiments.tracking.store_uri import (
    StoreError,
    get_sqlite_path,
    make_absolute,
    resolve_store,
    resolve_trial_store,
)
from experiments.tracking.sweep_sync import sync_all
from experiments.tracking.trackers import mlflow
from experiments.tracking.trackers.progress_file import RunProgress
from experiments.trial.parameters import clean_key
from experiments.trial.trial import Trial
from tests.experiments.core.test_lock import stopped_holder
from tests.support.forked_syncs import sync_at_once
from tests.support.recorded_sweeps import make_swept
from tests.support.stores import (
    DEAD_PID,
    free_port,
    log_steps,
    make_expected_metrics,
    make_run,
    read_metrics,
    read_status,
    read_tags,
    rewrite_states,
    sql,
    start_attempt,
    write_outcome,
)
from tests.support.variants import IS_LONG
from tests.support.waiting import wait_until


def test_run_is_in_mlflow_with_metrics_params_tags_and_artifacts(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    (trial.folder / "checkpoints").mkdir()
    (trial.folder / "checkpoints" / "weights.safetensors").write_text("w")
    with start_attempt(trial) as journal:
        journal.params({"model.num_parameters": 1234})
        journal.data(name="blobs", digest="f" * 64, num_examples=300, split="train")
        journal.data(name="blobs", digest="f" * 64, num_examples=60, split="val")
        journal.artifact("checkpoints/weights.safetensors")
        journal.artifact("../../../etc/passwd")
        log_steps(journal, range(3))
        journal.state("finished", step=3, attempt=1)
    write_outcome(trial)
    synced = sync_run(trial)
    database = runs_dir / "mlflow.db"
    assert synced.points == 6
    assert read_metrics(runs_dir) == make_expected_metrics(range(3))
    assert dict(sql(database, "select key, value from params")) == {
        "name": "blobs",
        "description": "does it learn?",
        "model._target_": "modules.model.mlp.Mlp",
        "model.hidden_sizes": "[64, 32]",
        "model.dropout_prob": "0.0",
        "model.extra": "{}",
        "model.num_parameters": "1234",
        "data._target_": "modules.data.blobs.Blobs",
        "data.root": "null",
        "optimizer._target_": "torch.optim.SGD",
        "optimizer.lr": "1e-05",
        "optimizer.nesterov": "true",
        "tracking.store": "null",
        "tracking.experiment": "lathe",
        "tracking.sync": "live",
    }
    stored_tags = read_tags(runs_dir)
    assert stored_tags["mlflow.runName"] == "blobs"
    assert stored_tags["mlflow.source.git.commit"] == "0123abcd" * 5
    assert stored_tags["git.dirty"] == "true"
    assert stored_tags["lathe.run_key"] == "key-of-a1b2c3"
    assert stored_tags["lathe.folder"] == str(trial.folder)
    assert stored_tags["lathe.host"] == socket.gethostname()
    assert (stored_tags["lathe.state"], stored_tags["lathe.attempt"]) == ("finished", "1")
    assert (
        f"lathe run model=mlp optimizer.lr=1e-5\nlathe resume {trial.reference}" in stored_tags["mlflow.note.content"]
    )
    assert "Mlp(hidden_sizes=[64, 32], dropout_prob=0.0, extra={})" in stored_tags["mlflow.note.content"]
    first = json.loads((trial.folder / "attempts/1/journal.jsonl").read_text().splitlines()[0])
    outcome = trial.outcome()
    assert outcome is not None
    times = sql(database, "select status, start_time, end_time, experiment_id from runs")
    assert times == [
        ("FINISHED", round(first["time"] * 1000), round(outcome["ended"] * 1000), int(synced.experiment_id or 0))
    ]
    assert sql(database, "select name, length(digest) from datasets order by name") == [
        ("blobs/train", 36),
        ("blobs/val", 36),
    ]
    root = runs_dir / "artifacts" / str(synced.run_id) / "artifacts"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["checkpoints/weights.safetensors", "code/lathe.patch", "provenance.yaml", "trial.yaml"]


def test_the_folder_of_runs_may_have_any_name(tmp_path: Path, empty_store: Path) -> None:
    runs_dir = tmp_path / "r?q=1 %20 100% #1 é 日本 'a' \"b\" $x;&:@\\"
    runs_dir.mkdir()
    shutil.copy(empty_store, runs_dir / "mlflow.db")
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2))
    write_outcome(trial)
    synced = sync_run(trial)
    assert sql(runs_dir / "mlflow.db", "select run_uuid from runs") == [(synced.run_id,)]
    assert (runs_dir / "artifacts" / str(synced.run_id) / "artifacts" / "trial.yaml").is_file()
    assert list(tmp_path.iterdir()) == [runs_dir]
    assert shlex.split(trial.reference) == [str(trial.folder)]
    uri = resolve_store(None, runs_dir)
    assert make_absolute(uri) == uri
    assert get_sqlite_path(uri) == runs_dir / "mlflow.db"


def test_nan_and_infinity_are_stored(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        journal.metrics(1, {"nan": math.nan, "inf": math.inf, "bad@key[0]//x": 1.0})
    sync_run(trial)
    rows = sql(runs_dir / "mlflow.db", "select key, value, is_nan from metrics order by key")
    assert rows == [("bad_key_0___x", 1.0, 0), ("inf", sys.float_info.max, 0), ("nan", 0.0, 1)]


def test_second_sync_changes_nothing_even_without_its_progress_file(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(700))
    write_outcome(trial)
    first = sync_run(trial)
    assert (first.points, sync_run(trial).points) == (1400, 0)
    (trial.folder / "sync.json").write_text("{damaged")
    again = sync_run(trial)
    assert (again.run_id, again.points) == (first.run_id, 1400)
    assert read_metrics(runs_dir) == make_expected_metrics(range(700))
    assert sql(runs_dir / "mlflow.db", "select count(*) from runs") == [(1,)]


def test_progress_file_of_the_first_version_gets_the_new_name_of_the_state(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    path.write_text(json.dumps({"store": "s", "last_state": {"state": "stopped", "attempt": 1}}))
    assert RunProgress.load(path, "s").last_state == {"state": "interrupted", "attempt": 1}


def test_evaluations_are_added_once_under_their_own_names(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2))
        journal.state("finished", step=2, attempt=1)
    write_outcome(trial)
    sync_run(trial)
    for number, status in ((1, "finished"), (2, "failed")):
        evaluation = Trial(trial.folder / "evaluations" / str(number))
        with start_attempt(evaluation) as journal:
            journal.params({f"evaluation.{number}.split": "test"})
            journal.metrics(1, {f"evaluation/{number}/test/loss_nats": 0.5})
            journal.metrics(9, {"train/loss_nats": 0.0})  # of a stranger's folder
            journal.state("failed", step=1, attempt=1)
        write_outcome(evaluation, status)
    assert [sync_run(trial).points, sync_run(trial).points] == [1, 0]
    assert read_metrics(runs_dir) == [("evaluation/1/test/loss_nats", 1, 0.5), *make_expected_metrics(range(2))]
    assert read_status(runs_dir) == "FINISHED"
    assert sql(runs_dir / "mlflow.db", "select value from params where key='evaluation.1.split'") == [("test",)]


def test_interrupted_sync_continues(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(40))
    monkeypatch.setattr(mlflow_client, "METRICS_PER_CALL", 7)
    monkeypatch.setattr(run_sync, "_BLOCK_BYTES", 500)
    real, calls = RunSync._send, iter(range(100))

    def killed_at_the_fourth_block(*args: Any) -> int:
        done = real(*args)
        if next(calls) == 3:
            raise KeyboardInterrupt  # after the store took the block, before the offset was saved
        return done

    monkeypatch.setattr(RunSync, "_send", killed_at_the_fourth_block)
    with pytest.raises(KeyboardInterrupt):
        sync_run(trial)
    assert 0 < len(read_metrics(runs_dir)) < 80
    sync_run(trial)
    assert read_metrics(runs_dir) == make_expected_metrics(range(40))


def test_resumed_run_has_each_step_once(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(10))
    write_outcome(trial, "killed")
    sync_run(trial)
    assert read_status(runs_dir) == "KILLED"
    with start_attempt(trial, 2, step=5) as journal:
        log_steps(journal, range(5, 8), offset=0.25)
        journal.params({"late": "fact"})
        sync_run(trial)
        assert read_status(runs_dir) == "RUNNING"
        log_steps(journal, range(8, 12))
    write_outcome(trial, "finished", 2)
    sync_run(trial)
    assert read_metrics(runs_dir) == make_expected_metrics(range(12))
    assert (read_status(runs_dir), read_tags(runs_dir)["lathe.attempt"]) == ("FINISHED", "2")
    (trial.folder / "sync.json").unlink()
    sync_run(trial)
    assert read_metrics(runs_dir) == make_expected_metrics(range(12))


def test_parameter_keeps_the_value_of_the_first_attempt(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    for number in (1, 2):
        with start_attempt(trial, number) as journal:
            journal.params({"num_devices": number, "name": "another"})
        sync_run(trial)
    params = dict(sql(runs_dir / "mlflow.db", "select key, value from params"))
    assert (params["num_devices"], params["name"]) == ("1", "blobs")


def test_parameters_respect_the_limits_of_mlflow(runs_dir: Path) -> None:
    many = {f"layer_{i}": i for i in range(230)}
    odd = {"k" * 300: "v" * 7000, "p[0]": "", "a//b": 1, "../x": 2, "..": 3, ".": 4, "": 5, "ü:ok": "ß", "/x": 6}
    trial = make_run(runs_dir, model=many, data=odd)
    start_attempt(trial).close()
    sync_run(trial)
    params = dict(sql(runs_dir / "mlflow.db", "select key, value from params"))
    assert len([key for key in params if key.startswith("model.layer_")]) == 230
    assert params["data.p_0_"] == ""
    assert params["data.ü:ok"] == "ß"
    long = next(key for key in params if key.startswith("data.kkk"))
    assert (len(long), len(params[long])) == (250, 6000)
    assert sync_run(trial).points == 0


@pytest.mark.parametrize("key", ["", ".", "..", "../x", "a//b", "/x", "x/", "a/../b", "a@b", "p[0]", "x" * 400, "a\nb"])
def test_cleaned_key_is_valid_in_mlflow(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(clean_key(key))  # type: ignore[no-untyped-call]
    _validate_param_name(clean_key(key))  # type: ignore[no-untyped-call]
    assert clean_key("val/accuracy_top1") == "val/accuracy_top1"


def test_keys_that_mlflow_does_not_distinguish_stay_different(runs_dir: Path) -> None:
    tags, data = {"a@b": "1", "a_b": "2", "a#b": "3"}, {"_target_": "x.Y", "p[0]": 1, "p_0_": 2}
    trial = make_run(runs_dir, tags=tags, data=data)
    with start_attempt(trial) as journal:
        log_steps(journal, range(1))
    sync_run(trial)
    params = dict(sql(runs_dir / "mlflow.db", "select key, value from params"))
    assert {value for key, value in params.items() if key.startswith("data.p_0_")} == {"1", "2"}
    assert params["data.p_0_"] == "2"
    stored_tags = read_tags(runs_dir)
    assert stored_tags["a_b"] == "2"
    assert {text for key, text in stored_tags.items() if key.startswith("a_b")} == {"1", "2", "3"}


def test_the_reason_of_a_failed_attempt_is_cleared_even_if_its_sync_was_killed(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2))
    sync_run(trial)
    progress = (trial.folder / "sync.json").read_text()
    with Journal(journal.path) as journal:
        journal.state("failed", step=2, attempt=1, reason="KeyError: 'x'", failure="exception")
    sync_run(trial)
    assert (read_tags(runs_dir)["lathe.reason"], read_tags(runs_dir)["lathe.failure"]) == ("KeyError: 'x'", "exception")
    (trial.folder / "sync.json").write_text(progress)  # as if the sync had died before it saved what it had sent
    with start_attempt(trial, 2, step=2) as journal:
        journal.state("finished", step=3, attempt=2)
    sync_run(trial)
    stored_tags = read_tags(runs_dir)
    assert (stored_tags["lathe.state"], stored_tags["lathe.attempt"]) == ("finished", "2")
    assert (stored_tags["lathe.reason"], stored_tags["lathe.failure"]) == ("", "")


def test_the_users_own_use_of_mlflow_does_not_change_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in mlflow_client.DROPPED_VARIABLES:
        monkeypatch.setenv(name, "m-of-another-run")
    mlflow_client.get_store_errors()
    assert not {*mlflow_client.DROPPED_VARIABLES} & {*os.environ}


RUNNING = {"state": "running", "attempt": 2, "time": 5.0, "pid": 1, "host": "h", "reason": None}


@pytest.mark.parametrize(
    ("outcome", "last", "alive", "state", "mlflow_status"),
    [
        (("finished", 2), RUNNING, True, "finished", "FINISHED"),
        (("failed", 2), RUNNING, True, "failed", "FAILED"),
        (("interrupted", 2), RUNNING, True, "interrupted", "KILLED"),
        (("killed", 2), RUNNING, True, "killed", "KILLED"),
        (("failed", 1), None, True, "failed", "FAILED"),  # it died before its first event
        (("failed", 1), RUNNING, True, "running", "RUNNING"),  # resumed: the outcome is that of the attempt before
        (("failed", 1), RUNNING, False, "killed", "KILLED"),
        (("killed", 3), RUNNING, True, "killed", "KILLED"),  # a third attempt that died before its first event
        (None, RUNNING, True, "running", "RUNNING"),
        (None, RUNNING, False, "killed", "KILLED"),
        (None, RUNNING | {"state": "finished"}, False, "finished", "FINISHED"),
        (None, RUNNING | {"state": "failed"}, False, "failed", "FAILED"),
        (None, RUNNING | {"state": "interrupted"}, False, "interrupted", "KILLED"),
        (None, None, True, "running", "RUNNING"),
    ],
)
def test_state_follows_from_outcome_journal_and_process(
    outcome: tuple[str, int] | None, last: dict[str, Any] | None, alive: bool, state: str, mlflow_status: str
) -> None:
    recorded = {"status": outcome[0], "attempt": outcome[1], "ended": 9.0, "reason": None} if outcome else None
    run_state = determine_state(recorded, last, 7.0, alive)
    assert (run_state.state, mlflow.STATUS[run_state.state]) == (state, mlflow_status)
    assert (run_state.ended is None) == (state == "running")


def test_run_without_a_process_is_killed(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2))
    sync_run(trial)
    assert read_status(runs_dir) == "RUNNING"  # this process, which is alive
    rewrite_states(journal.path, pid=DEAD_PID)
    (trial.folder / "sync.json").unlink()
    RunSync(trial).sync(reconcile=False)  # a live sync leaves the final state to the launcher
    assert read_status(runs_dir) == "RUNNING"
    sync_run(trial)
    assert (read_status(runs_dir), read_tags(runs_dir)["lathe.reason"]) == (
        "KILLED",
        f"process {DEAD_PID} ended without reporting an error",
    )


def test_run_on_another_host_stays_running(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2))
    rewrite_states(journal.path, pid=DEAD_PID, host="node-17")
    sync_run(trial)
    assert (read_status(runs_dir), read_tags(runs_dir)["lathe.host"]) == ("RUNNING", "node-17")


def test_zombie_and_reused_pid_are_not_alive() -> None:
    host = socket.gethostname()
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: not is_process_alive(host, child.pid, time.time()), "a zombie")
    child.wait()
    assert is_process_alive(host, os.getpid(), time.time())
    assert not is_process_alive(host, os.getpid(), time.time() - 1e6)


def test_nothing_is_created_before_the_first_event(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    assert sync_run(trial).run_id is None
    write_outcome(trial, "failed")
    assert sync_run(trial).run_id is not None
    assert read_status(runs_dir) == "FAILED"


def test_deleted_runs_are_restored_and_lost_ones_created_again(runs_dir: Path) -> None:
    from mlflow import MlflowClient

    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    first = sync_run(trial)
    MlflowClient(resolve_trial_store(trial)).delete_run(str(first.run_id))
    assert sync_run(trial).run_id == first.run_id
    assert sql(runs_dir / "mlflow.db", "select lifecycle_stage from runs") == [("active",)]
    (runs_dir / "b").mkdir()
    shutil.copytree(runs_dir / "single", runs_dir / "b" / "single")
    other = Trial(runs_dir / "b" / "single" / "a1b2c3")
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
            connection.execute(f"delete from {table}")
        connection.commit()
    again = sync_run(trial)
    assert again.run_id != first.run_id
    assert read_metrics(runs_dir) == make_expected_metrics(range(3))
    assert other.runs_dir == runs_dir / "b"


def test_refused_artifact_does_not_block_metrics(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    (runs_dir / "artifacts").write_text("a file where the folder should be")
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    write_outcome(trial)
    with pytest.raises(StoreError, match="did not take 'a1b2c3'"):
        sync_run(trial)
    assert (read_metrics(runs_dir), read_status(runs_dir)) == (make_expected_metrics(range(3)), "FINISHED")
    (runs_dir / "artifacts").unlink()
    synced = sync_run(trial)
    assert (runs_dir / "artifacts" / str(synced.run_id) / "artifacts" / "trial.yaml").is_file()


def test_sync_all_reports_failures_and_syncs_the_rest(runs_dir: Path) -> None:
    for name, sync_mode in (("aaa", "live"), ("bbb", "off"), ("ccc", "end")):
        tracking = {"store": None, "experiment": "lathe", "sync": sync_mode}
        with start_attempt(make_run(runs_dir, name, tracking=tracking)) as journal:
            log_steps(journal, range(2))
    (runs_dir / "single" / "ccc" / "trial.yaml").write_text("tracking: [")
    summary = sync_all(runs_dir)
    assert (summary.runs, summary.points) == (2, 8)
    assert len(summary.failures) == 1
    assert "ccc/trial.yaml is damaged: it is not valid YAML" in summary.failures[0]
    summary = sync_all(runs_dir, ["bbb", "aab"])
    assert (summary.runs, summary.points) == (1, 0)
    assert "no run 'aab'" in summary.failures[0]
    assert "did you mean 'aaa'" in summary.failures[0]


def test_error_of_a_store_that_is_down_is_one_line_without_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("LATHE_TEST_STORE", f"http://user:hush@127.0.0.1:{port}")
    trial = make_run(tmp_path, store="${oc.env:LATHE_TEST_STORE}")
    start_attempt(trial).close()
    with pytest.raises(StoreError) as caught:
        sync_run(trial)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"  # MLflow's default takes four minutes
    message = str(caught.value)
    assert message.startswith("tracking.store=${oc.env:LATHE_TEST_STORE} did not take 'a1b2c3': ")
    assert message.endswith(f"; its journals hold everything, `lathe sync {trial.reference}` retries")
    assert "hush" not in message
    assert "\n" not in message
    assert "hush" not in "".join(path.read_text() for path in trial.folder.rglob("*") if path.is_file())


def test_a_follower_that_was_stopped_does_not_hold_up_a_sync(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_run(runs_dir)
    start_attempt(trial).close()
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}])
    monkeypatch.setattr(lock, "STOPPED_S", 0.0)
    for folder in (trial.folder, sweep.folder):
        with stopped_holder(folder / "sync.lock") as holder:
            summary = sync_all(runs_dir, [folder.name])
            assert f"kill -CONT {holder.pid}" in summary.failures[0]
            assert "its journals hold everything, `lathe sync " in summary.failures[0]
        assert sync_all(runs_dir, [folder.name]).failures == ()


def test_store_with_an_unset_environment_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATHE_TEST_STORE", raising=False)
    with pytest.raises(
        StoreError, match="needs the environment variable LATHE_TEST_STORE, which is not set; export it"
    ):
        resolve_store("${oc.env:LATHE_TEST_STORE}", tmp_path)
    assert resolve_store("${oc.env:LATHE_TEST_STORE,http://x:1}", tmp_path) == "http://x:1"
    assert resolve_store(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.slow
def test_two_concurrent_syncs_take_turns(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(2000))
    write_outcome(trial)
    assert sorted(sync_at_once([trial.folder, trial.folder])) == [(0, "0"), (0, "4000")]
    assert read_metrics(runs_dir) == make_expected_metrics(range(2000))
    assert sql(runs_dir / "mlflow.db", "select count(*) from runs") == [(1,)]


@pytest.mark.slow
def test_concurrent_processes_on_a_new_store_create_one_schema_and_one_experiment(tmp_path: Path) -> None:
    count = 8 if IS_LONG else 4
    trials = [make_run(tmp_path, f"run{i}") for i in range(count)]
    for trial in trials:
        with start_attempt(trial) as journal:
            log_steps(journal, range(5))
    assert sync_at_once([trial.folder for trial in trials]) == [(0, "10")] * count
    database = tmp_path / "mlflow.db"
    assert sql(database, "select count(*) from metrics") == [(10 * count,)]
    assert sql(database, "select e.name, count(*) from runs join experiments e using (experiment_id) group by 1") == [
        ("lathe", count)
    ]
    assert not (Path.cwd() / "mlruns").exists()
