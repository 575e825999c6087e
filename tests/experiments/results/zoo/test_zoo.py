"""The command `lathe zoo`, from headers to a measured page."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.results.report.metric_history import read_history
from experiments.results.zoo.measure import MeasureOptions, _begun, _steps_in
from experiments.results.zoo.record import MeasuredRecord, Records, Refusal
from experiments.results.zoo.rows import Row
from experiments.run.journal import Journal
from experiments.trial.trial import trial_id
from tests.support.workers import make_sweep

ROOT = Path(__file__).parents[4]
TINY = """# @package _global_
# Question: does a tenth of a training learn a little?
# Measure: test/accuracy_top1 0.99 to 1.0
defaults: [override /model: softmax, _self_]
name: tiny
max_steps: 40
eval_every_steps: 20
checkpoint: {every_steps: 20}
"""


def test_the_committed_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["zoo", "--check", "--page", str(ROOT / "docs" / "zoo.md")])
    assert capsys.readouterr().err == ""
    assert code == 0


@pytest.mark.slow
def test_rows_are_measured_or_the_reason_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATHE_DATA", "/nowhere/data")
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "tiny.yaml").write_text(TINY)
    records = Records(Path("zoo.md"))
    base = ["zoo", "--config-dir", "mine", "--page", "zoo.md"]
    run = [*base, "--run", "--seeds", "2", "tracking=off"]

    assert main([*run, "tiny", "alexnet_imagenet"]) == 0
    output = capsys.readouterr().out
    record = records.find("tiny")
    assert isinstance(record, MeasuredRecord)
    assert (record.seeds, record.steps, record.is_complete, record.overrides) == ([0, 1], 40, True, [])
    assert record.values[0] != record.values[1]
    assert record.curve_steps == [20, 40]
    assert [len(curve) for curve in record.curves] == [2, 2]
    assert all(cpu_s > 0 for cpu_s in record.cpu_s)
    assert "per run; its header expects 0.99 to 1\n" in output
    assert isinstance(records.find("alexnet_imagenet"), Refusal)
    assert "alexnet_imagenet: not measured: its data is missing: data.folder=imagenet;" in output
    assert "1 measured, 1 not measured; zoo.md" in output

    assert main([*run, "tiny"]) == 0  # the record is current, so nothing runs
    assert "tiny: measured on" in capsys.readouterr().out
    assert main([*base, "--check"]) == 0
    (mine / "tiny.yaml").write_text(TINY.replace("a little?", "much?"))
    assert main([*base, "--check"]) == 1
    assert "zoo.md differs from the headers and records" in capsys.readouterr().err
    assert main([*base, "--write"]) == 0
    assert "Does a tenth of a training learn much?" in Path("zoo.md").read_text()
    (mine / "tiny.yaml").write_text(TINY.replace("max_steps: 40", "max_steps: 50"))
    capsys.readouterr()
    assert main([*base, "tiny"]) == 0
    assert "its configuration has changed since" in " ".join(capsys.readouterr().out.replace("│", " ").split())

    (mine / "tiny.yaml").write_text(TINY.replace("test/accuracy_top1", "test/nothing"))
    assert main([*run, "tiny", "alexnet_imagenet"]) == 1  # the other rows continue; finished runs are not repeated
    output = capsys.readouterr().out
    assert "tiny: failed: it has no metric test/nothing, which its header names; known: test/accuracy_top1," in output
    assert "1 not measured, 1 failed; zoo.md" in output
    assert records.find("tiny") == record


def test_the_plan_is_printed_first_and_sigterm_acts_as_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(row: Row, options: MeasureOptions) -> MeasuredRecord:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it continues")

    monkeypatch.setattr("experiments.results.zoo.zoo.measure", measured)
    monkeypatch.setenv("LATHE_DATA", "/nowhere/data")
    args = ["digits_lenet", "mnist_softmax", "--run", "--page", str(tmp_path / "zoo.md")]
    assert main(["zoo", *args, "--seeds", "2", "--budget", "10m"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "measures 1 of 2 rows with 2 seeds, at most about 10 min per run after a short test, 20 min altogether if they run "
        "one by one: digits_lenet; Ctrl-C stops it, and the same command resumes it",
        "[1/2] digits_lenet: test/accuracy_top1 with 2 seeds",
    ]
    assert shown.err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert main(["zoo", *args]) == 1
    assert "with 3 seeds, each run to its end (--budget" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "is_reported"),
    [(["model.dropout_prob=0.4"], False), (["model.dropout_prob=0.3"], True), (["model.of_then=1"], True)],
)
def test_a_row_measured_with_overrides_can_be_out_of_date(
    tmp_path: Path, overrides: list[str], is_reported: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = Records(ROOT / "docs" / "zoo.md").find("digits_lenet")
    assert isinstance(committed, MeasuredRecord)
    trial = trial_id(compose(["experiment=digits_lenet", "model.dropout_prob=0.4"]).config)
    page = tmp_path / "zoo.md"
    Records(page).write(replace(committed, trial=trial, overrides=overrides, weights="delivered"))
    assert main(["zoo", "digits_lenet", "--page", str(page)]) == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ("its configuration has changed since" in output) is is_reported


def test_a_budget_includes_the_start_and_the_evaluations(tmp_path: Path) -> None:
    """Twenty steps of 0.5 s and an evaluation of 3 s, in 15 s altogether."""
    with Journal(tmp_path / "attempts" / "1" / "journal.jsonl") as journal:
        journal.state("running", step=0, attempt=1)
        journal.metrics(20, {"perf/step_time_ms": 500.0})
        journal.metrics(20, {"val/loss_nats": 1.0})
    _set_times(tmp_path, [100.0, 112.0, 115.0])
    history = read_history(tmp_path)
    assert history.duration_s == 15.0
    assert _steps_in(budget_s=60.0, history=history, folder=tmp_path, evaluations=5) == int((60 - 5 - 4 * 3) / 0.5)


def _set_times(folder: Path, times: list[float]) -> None:
    import json

    path = folder / "attempts" / "1" / "journal.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [{**event, "time": time} for event, time in zip(events, times, strict=True)]
    path.write_text("".join(json.dumps(event) + "\n" for event in changed))


def test_a_row_resumes_the_sweep_with_exactly_its_trials(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}], name="zoo-tiny", num_seeds=2)
    other = make_sweep(tmp_path, [{}], "max_steps=50", name="zoo-tiny", num_seeds=2)
    trials = set(sweep.ledger().read().entries)
    assert len(trials) == 2
    sweep_of_row = _begun(tmp_path, "zoo-tiny", trials)
    assert sweep_of_row is not None
    assert sweep_of_row.folder == sweep.folder
    assert other.folder != sweep.folder
    assert _begun(tmp_path, "zoo-tiny", trials - {min(trials)}) is None
