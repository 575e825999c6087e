"""`lathe ls`: which runs it finds, what it shows of them, and that it reads only what is new."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.completion import complete
from experiments.cli.main import main
from experiments.core.errors import InputError
from experiments.results.search import index
from experiments.results.search.condition import parse
from experiments.results.search.index import FILE, Index, IndexedRun
from experiments.results.search.search import Keys, get_value, resolve_keys
from experiments.run import journal
from tests.conftest import Lathe
from tests.support import ledgers
from tests.support.recorded_sweeps import make_swept, run_trial
from tests.support.stores import DEAD_PID, make_run, rewrite_states, start_attempt, write_outcome


def make(runs_dir: Path, run_id: str, lr: float, accuracy: float, **config: Any) -> None:
    """A run that is finished."""
    optimizer = {"_target_": "torch.optim.SGD", "lr": lr}
    trial = make_run(runs_dir, run_id, optimizer=optimizer, checkpoint={"best_metric": "val/accuracy_top1"}, **config)
    with start_attempt(trial) as log:
        log.metrics(1, {"val/accuracy_top1": 0.1, "train/loss_nats": 2.5})
        log.metrics(2, {"val/accuracy_top1": accuracy, "train/loss_nats": 0.5})
    write_outcome(trial)


def find(lathe: Lathe, *args: str) -> list[str]:
    """The ids that `lathe ls --json` lists."""
    done = lathe("ls", *args, "--json")
    assert done.returncode == 0, done.stderr
    return [run["id"] for run in json.loads(done.stdout)]


def refused(lathe: Lathe, *args: str) -> str:
    done = lathe("ls", *args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_runs_are_found_by_override_and_metric(lathe: Lathe, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make(runs, "aaa", 0.001, 0.95, tags={"team": "vision"})
    make(runs, "bbb", 0.005, 0.75)
    make(runs, "ccc", 0.1, 0.97, description="a wide net")
    assert find(lathe, "optimizer.lr<0.01 and val/accuracy_top1>0.9") == ["aaa"]
    assert find(lathe, "lr<0.01 and val/accuracy>0.9") == ["aaa"]  # by the end, and by the beginning
    assert find(lathe, "not lr<0.01 or model=mlp", "--sort", "-lr") == ["ccc", "bbb", "aaa"]
    assert find(lathe, "val/accuracy_top1>0", "--sort", "val/accuracy_top1") == ["bbb", "aaa", "ccc"]
    assert find(lathe, "min:val/accuracy_top1=0.1 and max:val/accuracy_top1>0.96") == ["ccc"]
    assert find(lathe, "tags.team=vision") == ["aaa"]
    assert find(lathe, "description ~ WIDE and state=finished") == ["ccc"]
    assert find(lathe, "id=bbb") == ["bbb"]
    assert find(lathe, "delivered/val/accuracy_top1>0.96") == ["ccc"]
    assert find(lathe, "created>2999-01-01") == []
    assert sorted(find(lathe)) == ["aaa", "bbb", "ccc"]


def test_the_table_has_the_keys_of_the_condition(lathe: Lathe, tmp_path: Path) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    make(tmp_path / "runs", "bbb", 0.1, 0.97)
    heading, _, *rows = lathe("ls", "lr<1 and train/loss_nats<9", "--sort=-lr").stdout.splitlines()
    assert heading.split() == ["run", "name", "state", "optimizer.lr", "train/loss_nats", "started"]
    assert [row.split()[:5] for row in rows] == [
        ["bbb", "blobs", "finished", "0.1", "0.5"],
        ["aaa", "blobs", "finished", "0.001", "0.5"],
    ]
    assert lathe("ls").stdout.splitlines()[0].split()[3] == "delivered/val/accuracy_top1"


def test_columns_replace_those_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path / "runs"))
    for command, shown in ((["ls"], f"there are no runs in {tmp_path / 'runs'}\n"), (["ls", "--json"], "[]\n")):
        assert main(command) == 0  # the default folder, before the first run
        assert capsys.readouterr().out == shown
    make(tmp_path / "runs", "aaa", 0.001, 0.95, tags={"team": "vision"})
    make(tmp_path / "runs", "bbb", 0.005, 0.75)
    assert main(["ls", "--columns", "name,lr,val/acc,team", "-n", "1", "--sort", "lr"]) == 0
    printed = capsys.readouterr()
    heading, _, *rows = printed.out.splitlines()
    assert heading.split() == ["run", "name", "optimizer.lr", "val/accuracy_top1", "tags.team"]
    assert [row.split() for row in rows] == [["aaa", "blobs", "0.001", "0.95", "vision"]]
    assert printed.err == "1 of 2 runs; leave out -n to list all\n"
    assert main(["ls", "--columns", "lr", "--sort", "-lr", "--json"]) == 0
    assert [run["columns"] for run in json.loads(capsys.readouterr().out)] == [{"lr": 0.005}, {"lr": 0.001}]
    assert main(["ls", "--columns", "optimizer.lrr,staet"]) == 2
    assert capsys.readouterr().err.count("did you mean") == 2
    assert main(["ls", "-n", "0"]) == 2
    assert "-n 0 lists no run; write a positive number" in capsys.readouterr().err
    assert complete(["lathe", "ls", "--columns", "name,optimizer.l"]) == ["name,optimizer.lr"]


def test_a_reproduction_is_found_by_its_verdict(tmp_path: Path) -> None:
    trial, other = make_run(tmp_path), make_run(tmp_path, "d4e5f6")
    (trial.folder / "verdict.yaml").write_text("verdict: within tolerance\n")
    (other.folder / "verdict.yaml").write_text("")
    runs = Index(tmp_path).runs()
    text = "verdict='within tolerance' and state!=running"
    names = resolve_keys(parse(text), text, None, Keys.from_runs(runs))
    assert names == {"verdict": "verdict", "state": "state"}
    assert {run.id: get_value(run, "verdict") for run in runs} == {"a1b2c3": "within tolerance", "d4e5f6": None}


def test_no_match_is_reported_and_is_not_an_error(lathe: Lathe, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = lathe("ls")
    assert (done.returncode, done.stdout) == (0, "there are no runs in runs\n")
    assert lathe("ls", "whatever<3").returncode == 0
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    done = lathe("ls", "optimizer.lr>5")
    assert (done.returncode, done.stdout) == (0, "0 of 1 runs in runs match optimizer.lr>5\n")
    assert json.loads(lathe("ls", "optimizer.lr>5", "--json").stdout) == []


@pytest.mark.parametrize("make_it", [Path.touch, lambda path: None], ids=["a file", "nothing"])
@pytest.mark.parametrize("command", [["ls"], ["ls", "lr<1", "--json"], ["sync"], ["status"]])
def test_a_runs_dir_that_is_no_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], make_it: Callable[[Path], None]
) -> None:
    make_it(tmp_path / "here")
    assert main([*command, "--runs-dir", str(tmp_path / "here")]) == 2
    assert f"runs_dir={tmp_path / 'here'} is " in capsys.readouterr().err


def test_an_unknown_key_is_reported_with_its_position(lathe: Lathe, tmp_path: Path) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    error = refused(lathe, "optimizer.lr>0 and optimzer.lr<0.01")
    assert "no run has the key optimzer.lr; did you mean 'optimizer.lr'" in error
    assert error.splitlines()[-1].index("^") == error.splitlines()[-2].index("optimzer")
    assert "no run has the tag team; `lathe tag RUN team=...` adds it" in refused(lathe, "tags.team=x")
    assert "state=finish is not a state of a run; did you mean 'finished'?" in refused(lathe, "state=finish")
    assert "a value is missing after lr<" in refused(lathe, "lr<")
    assert "--sort nosuch: no run has the key nosuch" in refused(lathe, "--sort", "nosuch")


def test_an_ambiguous_key_is_refused() -> None:
    known = Keys(frozenset({"optimizer.lr", "schedule.lr", "seed"}), frozenset({"val/loss_nats", "val/loss_max"}))
    assert resolve_keys(parse("seed=1"), "seed=1", None, known) == {"seed": "seed"}
    for text, message in (
        ("lr=1", "lr can be optimizer.lr, schedule.lr; write more of it"),
        ("val/loss=1", "val/loss can be val/loss_max, val/loss_nats; write more of it"),
        ("min:val/loss=1", "min:val/loss can be min:val/loss_max, min:val/loss_nats"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_keys(parse(text), text, None, known)


def test_trials_of_a_sweep_are_found_by_their_values(lathe: Lathe, tmp_path: Path) -> None:
    sweep = make_swept(
        tmp_path / "runs", [{"optimizer.lr": 0.001, "model": "mlp"}, {"optimizer.lr": 0.1, "model": "lenet"}]
    )
    for trial, value in zip(ledgers.ids(2), (0.5, 0.75), strict=True):
        run_trial(sweep, trial, value)
    make(tmp_path / "runs", "aaa", 0.1, 0.95)
    assert find(lathe, "model=lenet and lr=0.1") == [ledgers.ids(2)[1]]
    assert find(lathe, "sweep=probe and lr=0.001") == [ledgers.ids(1)[0]]
    assert find(lathe, "not sweep=probe") == ["aaa"]
    row = next(line for line in lathe("ls", "model=lenet").stdout.splitlines() if "lr=0.1" in line)
    assert row.split()[:5] == [ledgers.ids(2)[1], "lr=0.1", "model=lenet", "probe", "finished"]


def test_the_default_option_of_a_group_is_in_the_index(lathe: Lathe, tmp_path: Path) -> None:
    quick = ("model=softmax", "max_steps=2", "eval_every_steps=2", "tracking=off")
    done = lathe("run", *quick, "+tags.team=vision")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(lathe("ls", "model=softmax and data=digits and tags.team=vision", "--json").stdout)
    assert run["state"] == "finished"
    assert run["config"]["optimizer"] == "adamw"
    assert run["metrics"]["val/accuracy_top1"]["last"] > 0
    assert find(lathe, "data=mnist") == []


def at(runs_dir: Path) -> IndexedRun:
    (run,) = Index(runs_dir).runs()
    return run


def test_only_new_events_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_run(tmp_path)
    read: list[int] = []
    real = journal.read

    def counted(path: Path, offset: int = 0, max_bytes: int | None = None) -> Any:
        events, end_of_read = real(path, offset, max_bytes)
        read.append(len(events))
        return events, end_of_read

    monkeypatch.setattr(journal, "read", counted)
    with start_attempt(trial) as log:
        log.metrics(1, {"val/x": 3.0})
        assert at(tmp_path).metrics == {"val/x": 3.0}
        assert sum(read) == 2
        read.clear()
        assert at(tmp_path).metrics == {"val/x": 3.0}
        assert read == []
        log.metrics(2, {"val/x": 1.0})
        assert at(tmp_path).metrics == {"val/x": 1.0}
        assert sum(read) == 1
    (tmp_path / FILE).write_text("{damaged")
    assert at(tmp_path).metrics == {"val/x": 1.0}


def test_points_that_a_resumed_attempt_repeats_count_once(tmp_path: Path) -> None:
    trial = make_run(tmp_path)
    with start_attempt(trial) as log:
        for step, value in ((1, 5.0), (2, 4.0), (3, math.nan)):
            log.metrics(step, {"val/x": value})
    with start_attempt(trial, 2, step=1) as log:
        for step, value in ((2, -9.0), (3, -9.0), (4, 7.0), (5, 6.0)):
            log.metrics(step, {"val/x": value})
    run = at(tmp_path)
    assert run.metrics["val/x"] == 6.0
    assert (run.extreme("val/x", index.SMALLEST), run.extreme("val/x", index.LARGEST)) == (4.0, 7.0)


def test_the_state_of_a_run_follows_from_its_files_and_processes(tmp_path: Path) -> None:
    trial = make_run(tmp_path)
    assert at(tmp_path).state == "new"
    with start_attempt(trial) as log:
        log.metrics(1, {"val/x": 3.0})
    assert at(tmp_path).state == "running"
    rewrite_states(log.path, pid=DEAD_PID)
    (tmp_path / FILE).unlink()
    assert at(tmp_path).state == "killed"
    write_outcome(trial, "failed")
    assert at(tmp_path).state == "failed"


def test_a_changed_run_is_read_again(tmp_path: Path) -> None:
    trial = make_run(tmp_path, optimizer={"lr": 1})
    assert at(tmp_path).config["optimizer.lr"] == 1
    (trial.folder / "trial.yaml").write_text(yaml.safe_dump({"optimizer": {"lr": 2}}))
    then = time.time() + 60
    os.utime(trial.folder / "trial.yaml", (then, then))
    assert at(tmp_path).config["optimizer.lr"] == 2


@pytest.mark.parametrize("name", ["trial.yaml", "provenance.yaml"])
@pytest.mark.parametrize("text", ["a: [", "7", "", "{}\n---\n{}"])
def test_a_damaged_run_is_reported_and_the_others_are_found(lathe: Lathe, tmp_path: Path, name: str, text: str) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    make(tmp_path / "runs", "bbb", 0.001, 0.95)
    (tmp_path / "runs" / "single" / "bbb" / name).write_text(text)
    done = lathe("ls", "lr<1", "--json")
    assert done.returncode == 0
    assert [run["id"] for run in json.loads(done.stdout)] == ["aaa"]
    assert f"single/bbb/{name} is damaged: it is " in done.stderr


def test_keys_are_completed_from_the_cached_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "aaa", 0.001, 0.95)
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    assert complete(["lathe", "ls", "optim"]) == []
    Index(tmp_path).runs()
    assert complete(["lathe", "ls", "optim"]) == ["optimizer._target_", "optimizer.lr"]
    assert complete(["lathe", "ls", "val"]) == ["val/accuracy_top1"]
    assert complete(["lathe", "ls", "lr<3", "val"]) == []
