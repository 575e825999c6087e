"""`experiments.api` as a notebook uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.api import compose, freeze, load_model, run, runs, sweep
from experiments.core.errors import InputError

SMALL = ["model=mlp", "model.hidden_sizes=[3]", "max_steps=2", "tracking=off"]


def test_the_import_is_fast() -> None:
    code = "import sys, experiments.api; print({'torch', 'hydra', 'mlflow', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_notebook_trains_sweeps_searches_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    overrides = [*SMALL, f"runs_dir={tmp_path}"]
    result = run(freeze(compose([*overrides, "optimizer.lr=0.02"])))
    assert result.status == "finished"

    frame = sweep([*overrides, "optimizer.lr=0.1,0.01"])
    assert list(frame.columns[:5]) == ["name", "state", "sweep", "started", "folder"]
    assert sorted(frame["optimizer.lr"]) == [0.01, 0.1]
    assert set(frame["state"]) == {"finished"}
    assert set(frame["sweep"]) == {"lr"}

    everything = runs()
    assert len(everything) == 3
    row = everything.loc[result.trial.folder.name]
    assert row["optimizer.lr"] == 0.02
    assert frame["sweep"].notna().all()
    assert everything["sweep"].isna().sum() == 1
    assert row["val/loss_nats"] == result.metrics["val/loss_nats"]
    assert list(runs("optimizer.lr=0.02", tmp_path).index) == [result.trial.folder.name]

    model = load_model(row.name)
    assert not model.training
    images = torch.zeros(2, 1, 8, 8)
    assert model(images).shape == (2, 10)
    for named in (result, result.trial, row["folder"]):
        again = load_model(named, device="cpu")
        assert torch.equal(again(images), model.cpu()(images))


def test_a_folder_without_runs_gives_an_empty_frame(tmp_path: Path) -> None:
    frame = runs(runs_dir=tmp_path)
    assert frame.empty
    assert "state" in frame.columns


def test_one_override_may_be_a_plain_text() -> None:
    assert compose("max_steps=7").config["max_steps"] == 7


def test_wrong_input_raises_the_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_step"):
        compose(["max_step=3"])
    with pytest.raises(InputError, match="there is no run 'abc'"):
        load_model("abc", tmp_path)
    with pytest.raises(InputError, match=r"launcher\.dry_run"):
        sweep(
            [
                *SMALL,
                f"runs_dir={tmp_path}",
                "launcher=slurm",
                "hardware=cpu_partition",
                "launcher.dry_run=true",
                "seed=1,2",
            ]
        )
