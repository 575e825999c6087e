"""Keys that a sweep averages over, such as `data.fold`: their trials are one point, for strategies, tables and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.results.report.findings import describe_rivals
from experiments.results.report.from_sweep import collect_from_sweep
from experiments.results.report.tables import format_markdown, make_trials_table
from experiments.sweep.create import extend, prepare, write
from experiments.sweep.expand import count_trials_per_point
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.confidence import differ_significantly, estimate_difference, estimate_half_width
from experiments.sweep.status.progress import read_progress
from experiments.sweep.status.text import format_best
from tests.support.ledgers import finish_trial

SMALL = ("model=softmax", "max_steps=2", "eval_every_steps=1", "tracking=off")
FOLDS = ("seed=1,2,3", "sweep.average_over=[seed]")


def test_trials_that_differ_only_in_an_averaged_key_are_one_point(tmp_path: Path) -> None:
    spec = read_overrides([*SMALL, *FOLDS, "optimizer.lr=0.1,0.01", f"runs_dir={tmp_path}"])
    assert (spec.count_points(), count_trials_per_point(spec.values)) == (2, 3)
    sweep = write(prepare(spec))
    entries = list(sweep.ledger().read().entries.values())
    assert [(entry.point, entry.values["optimizer.lr"], entry.values["seed"]) for entry in entries] == [
        (point, lr, seed) for point, lr in enumerate((0.1, 0.01)) for seed in (1, 2, 3)
    ]
    for entry, value in zip(entries, (0.5, 0.6, 0.7, 0.9, 0.1, 0.2), strict=True):
        finish_trial(sweep, entry.id, value)
    progress = read_progress(sweep, sweep.ledger())
    assert progress.best is not None
    assert (progress.best.values, len(progress.best.trials)) == (
        {"optimizer.lr": 0.1},
        3,
    )  # 0.9 is the best single trial
    text = format_best(progress, progress.best)
    assert text.endswith("0.6 at optimizer.lr=0.1, the mean of 3 trials over seed, ± 0.25 at 95 % confidence")
    findings = collect_from_sweep(sweep)
    assert findings.varying == ["optimizer.lr"]
    assert [point.values for point in findings.points] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}]
    assert "No significant difference from it" in describe_rivals(findings)
    headings = [column.name for column in make_trials_table(findings).columns]
    assert headings[:4] == ["trial", "lr", "seed", "state"]
    assert "| lr | delivered/val/accuracy\\_top1 | ± std | ± 95 % | finished |" in format_markdown(findings).replace(
        "accuracy_top1", "accuracy\\_top1"
    )
    assert extend(sweep, ["seed=4"]) == 2  # a fourth fold of both points
    assert [len(some) for some in sweep.ledger().read().points.values()] == [4, 4]


def test_an_adaptive_strategy_chooses_points_without_averaged_keys(tmp_path: Path) -> None:
    adaptive = ("sweep.strategy=tpe", "sweep.budget.max_points=2", "optimizer.lr=0.1,0.01")
    sweep = write(prepare(read_overrides([*SMALL, *FOLDS, *adaptive, f"runs_dir={tmp_path}"])))
    study, templates, ledger = sweep.study(), sweep.templates(), sweep.ledger()
    assert study is not None
    from experiments.sweep.expand import expand_point

    for number in range(2):
        with ledger.locked() as state:
            values = study.ask()
            assert list(values) == ["optimizer.lr"]
            ledger.add(list(expand_point(sweep.spec, templates, state, number, values)))
        for entry in ledger.read().points[number]:
            if entry.state == "pending":  # else the point repeats an earlier one, and has its results
                finish_trial(sweep, entry.id, 0.1 * entry.values["seed"])
    restarted = sweep.study()
    assert restarted is not None
    assert restarted.ask() == study.ask()  # both read the mean of the point
    assert read_progress(sweep, sweep.ledger()).total == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=0.1,1", "sweep.average_over=[optimizer.momentun]"], "optimizer.momentun does not vary"),
        (["optimizer.lr=interval(0.1,1)", "sweep.average_over=[optimizer.lr]"], "optimizer.lr is an interval"),
        (["sweep.strategy=list", "sweep.points=[[seed=1]]", "sweep.average_over=[seed]"], "strategy=list has only points"),
        (["optimizer.lr=0.1,1", "sweep.average_over=optimizer.lr"], "sweep.average_over"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_averaged_over_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match="problem") as info:
        read_overrides([*SMALL, *overrides])
    assert message in str(info.value)


def test_intervals_are_those_of_student_and_welch() -> None:
    assert estimate_half_width([1.0]) is None
    assert estimate_half_width([1.0, 2.0, 3.0]) == pytest.approx(2.484138, abs=1e-6)  # 4.302653 / sqrt(3)
    one, other = [27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5]  # against scipy.stats.ttest_ind
    from scipy.stats import ttest_ind

    expected = ttest_ind(one, other, equal_var=False).confidence_interval()
    assert estimate_difference(one, other) == pytest.approx((expected.low, expected.high))
    assert not differ_significantly(one, other)
    assert differ_significantly([1.0, 1.0], [2.0, 2.0])
    assert not differ_significantly([1.0], [2.0, 2.0])
    assert not differ_significantly([1.0, 1.0], [1.0, 1.0])
