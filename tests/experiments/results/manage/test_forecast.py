"""`lathe plan -m`: what a sweep will take, from earlier runs or from the cost model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.sweep.create import prepare, write
from experiments.sweep.spec import read_overrides
from tests.support.workers import QUICK, finish_trials


def test_a_sweep_is_planned_from_earlier_runs_else_by_the_cost_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*QUICK, "tracking=off", f"runs_dir={tmp_path}", "launcher.workers=2"]

    def plan(*words: str) -> dict[str, Any]:
        assert main(["plan", "-m", *words, "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    points = ("optimizer.lr=0.01,0.02", "max_steps=40,80")
    sweep = plan(*base, *points)
    assert (sweep["trials"], sweep["reused"], sweep["side_by_side"]) == (4, 0, 2)
    (group,) = sweep["groups"]
    assert (group["trials"], group["num_steps"], group["runs"]) == (4, 60, [])
    assert sweep["time_max_s"] > sweep["time_s"] > 2 * 2.0
    assert sweep["device_h"] * 3600 == pytest.approx(2 * sweep["time_s"])
    assert "the cost model knows neither data loading nor evaluations" in sweep["notes"][0]

    first = write(prepare(read_overrides([*base, "optimizer.lr=0.01"], name="first")))
    (finished,) = finish_trials(first)
    sweep = plan(*base, *points, "sweep.budget.wall_h=0.0001")
    assert (sweep["trials"], sweep["reused"]) == (4, 1)
    assert (sweep["groups"][0]["trials"], sweep["groups"][0]["runs"]) == (3, [f"first/{finished.id}"])
    assert sweep["time_s"] == sweep["time_max_s"] == pytest.approx(0.36)  # the budget
    assert "1 of 4 trials was finished before and is reused" in sweep["notes"][0]

    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {json.dumps(base)}\nspace: {{optimizer.lr: [0.01, 0.03]}}\n")
    assert main(["plan", "-m", str(file)]) == 0
    shown = capsys.readouterr().out  # the time depends on that of the recorded trial
    assert re.search(r"2 trials, 1 to run, 1 at the same time\ntime: probably [\d.]+ s, at most about", shown)
    for words, problem in (
        ([str(file), "lr_batch"], "lr_batch: -m plans one sweep"),
        (["--cfg", "seed=1,2"], "--cfg is for one run, but -m plans several"),
    ):
        assert main(["plan", "-m", *words]) == 2
        assert problem in capsys.readouterr().err
