"""`lathe ls`: which runs it finds, what it shows of them, and that it reads only what is new."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.completion import complete
from experiments.core.errors import InputError
from experiments.results.search import index
from experiments.results.search.condition import parse
from experiments.results.search.index import FILE, Index, IndexedRun
from experiments.results.search.search import Keys, resolved, value_of
from experiments.run import journal
from tests.conftest import Lathe
from tests.support import ledgers
from tests.support.recorded_sweeps import make_swept
from tests.support.recorded_sweeps import run as run_trial
from tests.support.stores import DEAD_PID, begin, end, make_run, rewrite_states


def make(runs_dir: Path, run_id: str, lr: float, accuracy: float, **config: Any) -> None:
    """A run that is finished."""
    optimizer = {"_target_": "torch.optim.SGD", "lr": lr}
    trial = make_run(runs_dir, run_id, optimizer=optimizer, checkpoint={"best_metric": "val/accuracy_top1"}, **config)
    with begin(trial) as log:
        log.metrics(1, {"val/accuracy_top1": 0.1, "train/loss_nats": 2.5})
        log.metrics(2, {"val/accuracy_top1": accuracy, "train/loss_nats": 0.5})
    end(trial)


def found(lathe: Lathe, *words: str) -> list[str]:
    """The ids that `lathe ls --json` lists."""
    done = lathe("ls", *words, "--json")
    assert done.returncode == 0, done.stderr
    return [run["id"] for run in json.loads(done.stdout)]


def refused(lathe: Lathe, *words: str) -> str:
    done = lathe("ls", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_runs_are_found_by_override_and_metric(lathe: Lathe, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make(runs, "aaa", 0.001, 0.95, tags={"team": "vision"})
    make(runs, "bbb", 0.005, 0.75)
    make(runs, "ccc", 0.1, 0.97, description="a wide net")
    assert found(lathe, "optimizer.lr<0.01 and val/accuracy_top1>0.9") == ["aaa"]
    assert found(lathe, "lr<0.01 and val/accuracy>0.9") == ["aaa"]  # by the end, and by the beginning
    assert found(lathe, "not lr<0.01 or model=mlp", "--sort", "-lr") == ["ccc", "bbb", "aaa"]
    assert found(lathe, "val/accuracy_top1>0", "--sort", "val/accuracy_top1") == ["bbb", "aaa", "ccc"]
    assert found(lathe, "min:val/accuracy_top1=0.1 and max:val/accuracy_top1>0.96") == ["ccc"]
    assert found(lathe, "tags.team=vision") == ["aaa"]
    assert found(lathe, "description ~ WIDE and state=finished") == ["ccc"]
    assert found(lathe, "id=bbb") == ["bbb"]
    assert found(lathe, "created>2999-01-01") == []
    assert sorted(found(lathe)) == ["aaa", "bbb", "ccc"]


def test_the_table_has_what_was_asked_for(lathe: Lathe, tmp_path: Path) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    make(tmp_path / "runs", "bbb", 0.1, 0.97)
    heading, _, *rows = lathe("ls", "lr<1 and train/loss_nats<9", "--sort=-lr").stdout.splitlines()
    assert heading.split() == ["run", "name", "state", "optimizer.lr", "train/loss_nats", "begun"]
    assert [row.split()[:5] for row in rows] == [
        ["bbb", "blobs", "finished", "0.1", "0.5"],
        ["aaa", "blobs", "finished", "0.001", "0.5"],
    ]
    assert lathe("ls").stdout.splitlines()[0].split()[3] == "val/accuracy_top1"


def test_a_run_that_repeats_another_is_found_by_the_verdict(tmp_path: Path) -> None:
    trial, other = make_run(tmp_path), make_run(tmp_path, "d4e5f6")
    (trial.folder / "verdict.yaml").write_text("verdict: within tolerance\n")
    (other.folder / "verdict.yaml").write_text("")
    runs = Index(tmp_path).runs()
    text = "verdict='within tolerance' and state!=running"
    names = resolved(parse(text), text, None, Keys.of(runs))
    assert names == {"verdict": "verdict", "state": "state"}
    assert {run.id: value_of(run, "verdict") for run in runs} == {"a1b2c3": "within tolerance", "d4e5f6": None}


def test_nothing_found_is_said_and_is_no_fault(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe("ls")
    assert (done.returncode, done.stdout) == (0, "no run in runs\n")
    assert lathe("ls", "whatever<3").returncode == 0
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    done = lathe("ls", "optimizer.lr>5")
    assert (done.returncode, done.stdout) == (0, "no run in runs of 1 fulfils optimizer.lr>5\n")
    assert json.loads(lathe("ls", "optimizer.lr>5", "--json").stdout) == []


def test_what_no_run_has_is_told_with_its_place(lathe: Lathe, tmp_path: Path) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    told = refused(lathe, "optimizer.lr>0 and optimzer.lr<0.01")
    assert "no run has the key optimzer.lr; did you mean 'optimizer.lr'" in told
    assert told.splitlines()[-1].index("^") == told.splitlines()[-2].index("optimzer")
    assert "no run has the tag team; `+tags.team=...` gives a run one" in refused(lathe, "tags.team=x")
    assert "state=finish is no state of a run; did you mean 'finished'?" in refused(lathe, "state=finish")
    assert "after lr< a value is missing" in refused(lathe, "lr<")
    assert "--sort nosuch: no run has the key nosuch" in refused(lathe, "--sort", "nosuch")


def test_an_end_that_several_keys_have_is_refused() -> None:
    known = Keys(frozenset({"optimizer.lr", "schedule.lr", "seed"}), frozenset({"val/loss_nats", "val/loss_max"}))
    assert resolved(parse("seed=1"), "seed=1", None, known) == {"seed": "seed"}
    for text, told in (
        ("lr=1", "lr may mean optimizer.lr, schedule.lr; write more of it"),
        ("val/loss=1", "val/loss may mean val/loss_max, val/loss_nats; write more of it"),
        ("min:val/loss=1", "min:val/loss may mean min:val/loss_max, min:val/loss_nats"),
    ):
        with pytest.raises(InputError, match=told):
            resolved(parse(text), text, None, known)


def test_trials_of_a_sweep_are_found_by_what_varies(lathe: Lathe, tmp_path: Path) -> None:
    sweep = make_swept(
        tmp_path / "runs", [{"optimizer.lr": 0.001, "model": "mlp"}, {"optimizer.lr": 0.1, "model": "lenet"}]
    )
    for trial, value in zip(ledgers.ids(2), (0.5, 0.75), strict=True):
        run_trial(sweep, trial, value)
    make(tmp_path / "runs", "aaa", 0.1, 0.95)
    assert found(lathe, "model=lenet and lr=0.1") == [ledgers.ids(2)[1]]
    assert found(lathe, "sweep=probe and lr=0.001") == [ledgers.ids(1)[0]]
    assert found(lathe, "not sweep=probe") == ["aaa"]
    row = next(line for line in lathe("ls", "model=lenet").stdout.splitlines() if "lr=0.1" in line)
    assert row.split()[:5] == [ledgers.ids(2)[1], "lr=0.1", "model=lenet", "probe", "finished"]


def test_the_option_of_a_group_is_known_though_nobody_typed_it(lathe: Lathe, tmp_path: Path) -> None:
    quick = ("model=softmax", "max_steps=2", "eval_every_steps=2", "tracking=off")
    done = lathe("run", *quick, "+tags.team=vision")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(lathe("ls", "model=softmax and data=digits and tags.team=vision", "--json").stdout)
    assert run["state"] == "finished"
    assert run["config"]["optimizer"] == "adamw"
    assert run["metrics"]["val/accuracy_top1"]["last"] > 0
    assert found(lathe, "data=mnist") == []


def at(runs_dir: Path) -> IndexedRun:
    (run,) = Index(runs_dir).runs()
    return run


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_run(tmp_path)
    read: list[int] = []
    real = journal.read

    def counted(path: Path, offset: int = 0, max_bytes: int | None = None) -> Any:
        events, end_of_read = real(path, offset, max_bytes)
        read.append(len(events))
        return events, end_of_read

    monkeypatch.setattr(journal, "read", counted)
    with begin(trial) as log:
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
    with begin(trial) as log:
        for step, value in ((1, 5.0), (2, 4.0), (3, math.nan)):
            log.metrics(step, {"val/x": value})
    with begin(trial, 2, step=1) as log:
        for step, value in ((2, -9.0), (3, -9.0), (4, 7.0), (5, 6.0)):
            log.metrics(step, {"val/x": value})
    run = at(tmp_path)
    assert run.metrics["val/x"] == 6.0
    assert (run.extreme("val/x", index.SMALLEST), run.extreme("val/x", index.LARGEST)) == (4.0, 7.0)


def test_a_run_stands_where_its_files_and_processes_say(tmp_path: Path) -> None:
    trial = make_run(tmp_path)
    assert at(tmp_path).state == "new"
    with begin(trial) as log:
        log.metrics(1, {"val/x": 3.0})
    assert at(tmp_path).state == "running"
    rewrite_states(log.path, pid=DEAD_PID)
    (tmp_path / FILE).unlink()
    assert at(tmp_path).state == "killed"
    end(trial, "failed")
    assert at(tmp_path).state == "failed"


def test_a_run_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    trial = make_run(tmp_path, optimizer={"lr": 1})
    assert at(tmp_path).config["optimizer.lr"] == 1
    (trial.folder / "trial.yaml").write_text(yaml.safe_dump({"optimizer": {"lr": 2}}))
    then = time.time() + 60
    os.utime(trial.folder / "trial.yaml", (then, then))
    assert at(tmp_path).config["optimizer.lr"] == 2


@pytest.mark.parametrize("name", ["trial.yaml", "provenance.yaml"])
@pytest.mark.parametrize("text", ["a: [", "7", "", "{}\n---\n{}"])
def test_a_damaged_run_is_told_and_the_others_are_found(lathe: Lathe, tmp_path: Path, name: str, text: str) -> None:
    make(tmp_path / "runs", "aaa", 0.001, 0.95)
    make(tmp_path / "runs", "bbb", 0.001, 0.95)
    (tmp_path / "runs" / "single" / "bbb" / name).write_text(text)
    done = lathe("ls", "lr<1", "--json")
    assert done.returncode == 0
    assert [run["id"] for run in json.loads(done.stdout)] == ["aaa"]
    assert "single/bbb cannot be read" in done.stderr


def test_keys_are_completed_from_what_the_last_search_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "aaa", 0.001, 0.95)
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    assert complete(["lathe", "ls", "optim"]) == []
    Index(tmp_path).runs()
    assert complete(["lathe", "ls", "optim"]) == ["optimizer._target_", "optimizer.lr"]
    assert complete(["lathe", "ls", "val"]) == ["val/accuracy_top1"]
    assert complete(["lathe", "ls", "lr<3", "val"]) == []
