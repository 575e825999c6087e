"""`lathe tag`, `lathe note` and `lathe rename`: what they record, where it shows, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli.completion import complete
from experiments.cli.main import main
from experiments.sweep.sweep import Sweep
from experiments.tracking.run_sync import sync_run
from experiments.tracking.sweep_sync import SweepSync
from experiments.trial.trial import find_trial
from tests.support.recorded_sweeps import make_swept, read_run_tags, run_trial
from tests.support.stores import make_run, read_tags, sql, start_attempt, write_outcome

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def runs(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_RUNS", str(runs_dir))
    trial = make_run(runs_dir, hardware={"nodes": 1}, tags={"team": "vision", "old": "yes"})
    start_attempt(trial).close()
    write_outcome(trial)
    return runs_dir


def read_shown(capsys: Captured, *command: str) -> str:
    assert main([*command]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_tags_note_and_name_show_everywhere_also_in_mlflow(runs: Path, capsys: Captured) -> None:
    sync_run(find_trial("a1b2c3", runs))
    assert read_shown(capsys, "tag", "a1b2", "paper=icml", "team=speech", "--remove", "old") == "team=speech paper=icml"
    assert read_shown(capsys, "note", "a1b2", "the baseline of table 2") == "the baseline of table 2"
    assert read_shown(capsys, "rename", "a1b2", "baseline") == "run a1b2c3 is now called 'baseline'"
    assert complete(["lathe", "show", "base"]) == ["baseline"]
    shown = read_shown(capsys, "show", "baseline")
    assert "run a1b2c3 of 'baseline'" in shown
    assert "note the baseline of table 2" in shown
    assert "tags team=speech paper=icml" in shown
    (found,) = json.loads(read_shown(capsys, "ls", "tags.paper=icml and note~baseline and name=baseline", "--json"))
    assert "tags.old" not in found["config"]
    tags = read_tags(runs)
    assert (tags["paper"], tags["team"], tags["old"]) == ("icml", "speech", "")
    assert tags["mlflow.note.content"].startswith("**baseline**: does it learn?\n\nthe baseline of table 2\n")
    assert tags["mlflow.runName"] == "baseline"
    assert sql(runs / "mlflow.db", "select name from runs") == [("baseline",)]
    assert read_shown(capsys, "note", "a1b2", "") == "a1b2c3 has no note"
    assert "table 2" not in read_tags(runs)["mlflow.note.content"]


def test_the_tags_of_a_sweep_count_for_its_trials(runs: Path, capsys: Captured) -> None:
    sweep = make_swept(runs, [{"optimizer.lr": 0.1}])
    run_trial(sweep, "b00000000000", 0.5)
    SweepSync(Sweep(sweep.folder)).sync()
    assert read_shown(capsys, "tag", "probe", "paper=icml") == "paper=icml"
    assert read_shown(capsys, "note", "probe", "too slow") == "too slow"
    assert [run["id"] for run in json.loads(read_shown(capsys, "ls", "tags.paper=icml", "--json"))] == ["b00000000000"]
    assert "note too slow tags paper=icml" in read_shown(capsys, "status", "probe")
    tags = read_run_tags(runs, "probe")
    assert tags["paper"] == "icml"
    assert "too slow" in tags["mlflow.note.content"]
    assert main(["rename", "probe", "other"]) == 2
    assert "'probe' is a sweep, whose name is its folder" in capsys.readouterr().err


def test_wrong_tags_are_refused_together_and_change_nothing(runs: Path, capsys: Captured) -> None:
    assert main(["tag", "a1b2c3", "paper=icml", "good", "lathe.state=x", "a?=1", "--remove", "tem"]) == 2
    problems = capsys.readouterr().err
    for problem in (
        "good has no value; write for example `good=yes`",
        "Lathe and MLflow set the tags that begin with lathe.; choose another",
        "'a?' is not a name of a tag",
        "--remove tem: there is no such tag; did you mean 'team'?",
    ):
        assert problem in problems
    assert read_shown(capsys, "tag", "a1b2c3") == "team=vision old='yes'"
    assert main(["rename", "a1b2c3", "two\nlines"]) == 2
    (runs / "single" / "a1b2c3" / "annotations.yaml").write_text("tags: 3\n")
    assert main(["show", "a1b2c3"]) == 2
    assert "annotations.yaml is damaged: a value is not text; correct it, or remove it" in capsys.readouterr().err
