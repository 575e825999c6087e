"""Every number of a run is the same in the run table, `ls`, `status`, the report, MLflow and `diff`."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from experiments.cli.main import main
from experiments.cli.run import _result_table
from experiments.core.console import Display, make_console
from experiments.core.format import format_number
from experiments.launch.attempt_monitor import AttemptMonitor, RunResult
from experiments.results.report.from_sweep import collect_from_sweep
from experiments.results.report.tables import make_trials_table
from experiments.results.search.index import Index
from experiments.run.journal import Journal
from experiments.run.metrics import DELIVERED, DELIVERED_STEP, delivered_value, read_summaries
from experiments.sweep.status.progress import read_progress
from experiments.sweep.sweep import Sweep
from experiments.tracking.sweep_sync import sync_all
from experiments.tracking.trackers.mlflow_metric import make_metric_name
from experiments.trial.trial import Trial
from tests.support import ledgers
from tests.support.recorded_sweeps import make_swept, start_trial
from tests.support.stores import sql
from tests.support.variants import IS_LONG

VALUES = (0.1, 0.25, 0.25, 0.5, 0.5, 1e-7, 123456.789, -2.0, math.nan)
NUM_TRIALS = 5


@dataclass
class Recorded:
    """A trial, and the numbers that a reader of its journals must find."""

    trial: Trial
    metric: str
    is_old: bool
    """Whether an earlier version recorded it, which did not log what a run delivers."""
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    table: str = ""

    def log(
        self, journal: Journal, step: int, values: Mapping[str, float], attempt_points: set[tuple[str, int]]
    ) -> None:
        """Log a point; a step that an earlier attempt has logged does not count again."""
        journal.metrics(step, values)
        for name, value in values.items():
            points = self.points.setdefault(name, {})
            if step > max(points, default=-1) or (name, step) in attempt_points:
                points[step] = value
                attempt_points.add((name, step))

    def final(self) -> dict[str, float]:
        return {name: points[max(points)] for name, points in self.points.items()}

    def best(self, mode: str) -> float | None:
        if not self.is_old:
            return plain(self.final().get(f"{DELIVERED}{self.metric}"))
        known = [value for value in self.points.get(self.metric, {}).values() if not math.isnan(value)]
        return (max if mode == "max" else min)(known, default=None)


def plain(value: float | None) -> float | None:
    """NaN is None in JSON."""
    return None if value is None or math.isnan(value) else value


def train(sweep: Sweep, name: str, chance: random.Random, mode: str, metric: str) -> Recorded:
    """Write what a training writes, in one or two attempts; the second repeats steps with other values."""
    run = Recorded(Trial(sweep.folder / name), metric, is_old=chance.random() < 0.2)
    best, delivered = math.nan, 0
    evaluations = chance.choice((0, 1, 4))
    first = 0
    num_attempts = chance.choice((1, 2))
    for attempt in range(1, num_attempts + 1):
        start_trial(sweep, name)
        config = yaml.safe_load((run.trial.folder / "trial.yaml").read_text())
        config["checkpoint"] = {"best_metric": metric, "best_mode": mode}
        config["hardware"] = {"nodes": 1, "devices_per_node": 1}
        (run.trial.folder / "trial.yaml").write_text(yaml.safe_dump(config))
        run = Recorded(Trial(run.trial.folder), metric, run.is_old, run.points)
        monitor = AttemptMonitor(run.trial, attempt, Display(io.StringIO()), num_ranks=0)
        monitor.has_steps = True  # no process copies the run while it trains
        done: set[tuple[str, int]] = set()
        with Journal(monitor.folder / "journal.jsonl") as journal:
            journal.state("running", step=first, attempt=attempt)
            for step in range(first + 1, evaluations + 1):
                values = {metric: chance.choice(VALUES), "val/loss_nats": chance.choice(VALUES)}
                run.log(journal, 10 * step, {"train/loss_nats": chance.choice(VALUES)}, done)
                run.log(journal, 10 * step, values, done)
                is_better = values[metric] > best if mode == "max" else values[metric] < best
                if is_better or (math.isnan(best) and not math.isnan(values[metric])):
                    best, delivered = values[metric], 10 * step
                    if not run.is_old:
                        kept = {f"{DELIVERED}{key}": value for key, value in values.items()}
                        run.log(journal, 10 * step, {DELIVERED_STEP: delivered, **kept}, done)
            if evaluations and attempt == num_attempts and not run.is_old:
                if not delivered:  # no value was a number: it delivers the last step, and logs that at the end
                    kept = {f"{DELIVERED}{key}": value for key, value in values.items()}
                    run.log(journal, 10 * evaluations, {DELIVERED_STEP: 10 * evaluations, **kept}, done)
                run.log(journal, delivered or 10 * evaluations, {"test/loss_nats": chance.choice(VALUES)}, done)
            check_running(sweep, run, mode)
            monitor.update(has_ended=True)
            journal.state("finished", step=10 * evaluations, attempt=attempt)
        measured = read_summaries(run.trial.folder, {metric, f"{DELIVERED}{metric}"})
        value = delivered_value(measured, metric, mode)
        state = "finished" if attempt == num_attempts else "pending"
        ledgers.end_trial(sweep, name, state, value=value, step=10 * evaluations)  # type: ignore[arg-type]
        first = chance.randrange(0, evaluations + 1)
    console = make_console(buffer := io.StringIO())
    console.print(_result_table(RunResult(run.trial, num_attempts, "finished", None, 0, monitor.metrics)))
    run.table = buffer.getvalue()
    return run


def check_running(sweep: Sweep, run: Recorded, mode: str) -> None:
    """`status` of a running trial; `ls` reads the same journal, and only the new part of it."""
    row = next(row for row in read_progress(sweep, sweep.ledger()).rows if row.id == run.trial.folder.name)
    assert (plain(row.value), plain(row.last)) == (run.best(mode), plain(run.final().get(run.metric)))
    check_ls(run, mode)


@pytest.mark.parametrize("seed", range(30 if IS_LONG else 2))
def test_every_number_of_a_run_is_the_same_everywhere(
    seed: int, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    sweeps = {}
    for mode, metric in (("max", "val/same/top5/accuracy_top5"), ("min", "val/mean error (%)")):
        sweep = make_swept(
            runs_dir, [{"optimizer.lr": lr} for lr in range(NUM_TRIALS)], name=f"sweep_{mode}", metric=metric, mode=mode
        )
        sweeps[mode] = sweep, [train(sweep, name, chance, mode, metric) for name in ledgers.ids(NUM_TRIALS)]
    assert not sync_all(runs_dir, [], ()).failures
    for mode, (sweep, runs) in sweeps.items():
        check_sweep(sweep, runs, mode)
        for run in runs:
            check_table(run)
            check_ls(run, mode)
            check_mlflow(runs_dir, run)
        check_diff(runs[0], runs[1], mode, capsys)


def check_table(run: Recorded) -> None:
    lines = [line.strip("│┃ ").split("│") for line in run.table.splitlines() if "│" in line]
    printed = {name.strip(): text.strip() for name, text in lines}
    assert {name: printed[name] for name in run.points} == {name: f"{value:.6g}" for name, value in run.final().items()}


def check_ls(run: Recorded, mode: str) -> None:
    folder = run.trial.folder.resolve()
    indexed = next(one for one in Index(run.trial.runs_dir).runs() if one.folder.resolve() == folder)
    assert plain(indexed.metrics.get(f"{DELIVERED}{run.metric}")) == run.best(mode)
    for name, value in run.final().items():
        assert plain(indexed.metrics[name]) == plain(value), name


def check_sweep(sweep: Sweep, runs: list[Recorded], mode: str) -> None:
    """The status, the report, and which trial is the best."""
    progress, findings = read_progress(sweep, sweep.ledger()), collect_from_sweep(sweep)
    rows, ranked = {row.id: row for row in progress.rows}, {run.id: run for run in findings.runs}
    table = make_trials_table(findings)
    cells = dict(zip(table.ids, table.rows, strict=True))
    headings = [column.name for column in table.columns]
    measured: dict[str, float] = {}
    for run in runs:
        name, best = run.trial.folder.name, run.best(mode)
        measured |= {} if best is None else {name: best}
        assert plain(rows[name].value) == plain(ranked[name].value) == best
        shown = dict(zip(headings, cells[name], strict=True))
        assert plain(shown[f"{DELIVERED}{run.metric}"].sort) == best  # type: ignore[arg-type]
        assert plain(shown[run.metric].sort) == plain(run.final().get(run.metric))  # type: ignore[arg-type]
    if measured:
        winner = min(measured, key=lambda name: (-measured[name] if mode == "max" else measured[name], name))
        assert progress.best is not None
        assert findings.best_run is not None
        assert (progress.best.trials, findings.best_run.id) == ((winner,), winner)
        assert format_number(progress.best.value) == format_number(measured[winner])
    else:
        assert (progress.best, findings.best) == (None, None)


def check_mlflow(runs_dir: Path, run: Recorded) -> None:
    key = run.trial.provenance["run_key"]
    query = "select m.key, m.value, m.is_nan from latest_metrics m join tags t using (run_uuid)"
    stored = {
        name: None if is_nan else value
        for name, value, is_nan in sql(runs_dir / "mlflow.db", f"{query} where t.key = 'lathe.run_key' and t.value = '{key}'")
    }  # fmt: skip
    assert {name: stored[make_metric_name(name)] for name in run.points} == {
        name: plain(value) for name, value in run.final().items()
    }


def check_diff(one: Recorded, other: Recorded, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(run.trial.folder) for run in (one, other)]
    assert main(["diff", "--json", *names]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["metrics"]}
    if not (one.points and other.points):
        assert not rows
        return
    for name in rows if not (one.is_old or other.is_old) else [one.metric]:
        final = [plain(run.final().get(name)) for run in (one, other)]
        assert rows[name]["final"] == final, name
    assert rows[one.metric]["best"] == [one.best(mode), other.best(mode)]
