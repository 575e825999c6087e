"""How a report names the options of runs outside a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.results.report.from_runs import collect_from_runs
from experiments.trial.trial import Trial
from tests.support import stores
from tests.support.stores import make_run


def make_engines(runs_dir: Path, *overrides: list[str]) -> list[Trial]:
    """Make runs of different engines, with these overrides in their provenance."""
    server = {"_target_": "modules.parallel.parameter_server.ParameterServer", "data": "auto", "num_servers": 1}
    engines: dict[str, dict[str, Any]] = {
        "data": {"_target_": "modules.parallel.data.DataParallel", "data": "auto"},
        "async": {**server, "group_size": 1, "max_staleness": None},
        "hybrid": {**server, "group_size": 2, "max_staleness": None},
    }
    runs = []
    for number, texts in enumerate(overrides):
        option, *others = [text.partition("=")[2] for text in texts]
        engine = {**engines[option], **({"max_staleness": int(others[0])} if others else {})}
        best = {"best_metric": "val/loss_nats", "best_mode": "min"}
        trial = make_run(runs_dir, f"a{number}b2c3", checkpoint=best, max_steps=20, seed=0, parallel=engine)
        provenance = yaml.safe_load((trial.folder / "provenance.yaml").read_text())
        (trial.folder / "provenance.yaml").write_text(yaml.safe_dump({**provenance, "overrides": texts}))
        with stores.start_attempt(trial) as journal:
            journal.metrics(10, {"val/loss_nats": 0.5 + number})
        runs.append(trial)
    return runs


def test_engines_are_named_by_their_option(tmp_path: Path) -> None:
    overrides = [
        ["parallel=data"], ["parallel=async"], ["parallel=async", "parallel.max_staleness=2"], ["parallel=hybrid"],
    ]  # fmt: skip
    findings = collect_from_runs(make_engines(tmp_path, *overrides))
    assert [point.values for point in findings.points] == [
        {"parallel": "data"},
        {"parallel": "async", "parallel.max_staleness": None},
        {"parallel": "async", "parallel.max_staleness": 2},
        {"parallel": "hybrid", "parallel.max_staleness": None},
    ]


def test_an_unknown_option_is_named_by_its_class(tmp_path: Path) -> None:
    runs = make_engines(tmp_path, ["parallel=data"], ["parallel=async"])
    provenance = yaml.safe_load((runs[1].folder / "provenance.yaml").read_text())
    (runs[1].folder / "provenance.yaml").write_text(yaml.safe_dump({**provenance, "overrides": []}))
    findings = collect_from_runs([Trial(run.folder) for run in runs])
    assert [point.values for point in findings.points] == [
        {"parallel": "DataParallel"},
        {"parallel": "ParameterServer"},
    ]
