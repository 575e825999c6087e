"""`lathe resume RUN max_steps=...`: a child run that trains longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from experiments.cli.main import main
from experiments.results.manage.longer import make_child
from experiments.run import journal
from experiments.run.checkpoint import Checkpoints
from experiments.run.metrics import read_series
from experiments.trial.trial import Trial
from tests.conftest import Lathe

SMALL = (
    "model.conv_channels=[3,5]", "model.hidden_size=16", "model.dropout_prob=0.4", "callback=ema", "tracking=off",
    "batch_size_global=24", "eval_every_steps=4", "log_every_steps=1", "runs_dir=runs",
)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_child_is_what_a_run_of_its_length_would_be(
    lathe: Lathe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATHE_RUNS", "runs")
    assert lathe("run", *SMALL, "max_steps=8", "name=short").returncode == 0
    parent = Trial(next((tmp_path / "runs/single").iterdir()))
    before = files(parent.folder)

    done = lathe("resume", parent.folder.name, "max_steps=12")
    assert done.returncode == 0, done.stderr
    child = Trial(next(path for path in (tmp_path / "runs/single").iterdir() if path.name != parent.folder.name))
    assert f"run {child.folder.name} continues run {parent.folder.name} from step 8" in done.stdout
    assert lathe("run", *SMALL, "max_steps=12").returncode == 0
    whole = Trial(tmp_path / "runs/single" / f"{child.folder.name}-2")
    assert read_series(child.folder) == read_series(whole.folder)
    weights = "checkpoints/step_00000012/model.safetensors"
    assert (child.folder / weights).read_bytes() == (whole.folder / weights).read_bytes()
    assert files(parent.folder) == before
    assert child.provenance["continues"]["run_key"] == parent.provenance["run_key"]
    assert child.provenance["continues"]["differs"] == []
    assert (child.config["name"], child.id) == ("short", whole.id)

    for arguments, problem in {
        ("max_steps=8",): "max_steps=8 is 8 steps, and run '",
        (
            "max_steps=12",
            "optimizer.lr=1",
        ): "optimizer.lr: a run that trains longer changes only max_steps, max_epochs, parallel",
        ("max_steps=x",): "max_steps",
        ("max_epochs=null",): "exactly one of them must be set",
    }.items():
        assert main(["resume", parent.folder.name, *arguments]) == 2
        assert problem in capsys.readouterr().err
    assert len(list((tmp_path / "runs/single").iterdir())) == 3

    # A schedule that depends on the length, and a best checkpoint before the last one.
    other = Trial(shutil.copytree(parent.folder, tmp_path / "runs/single/cosine"))
    config = other.config | {"schedule": {"_target_": "modules.schedule.cosine.Cosine"}, "log_every_steps": 3}
    (other.folder / "trial.yaml").write_text(yaml.safe_dump(config))
    (other.folder / "checkpoints/best.json").write_text(
        json.dumps({"step": 4, "metric": "val/accuracy_top1", "value": 0.9})
    )
    longer = make_child(Trial(other.folder), ["max_epochs=1"], [])
    differs = longer.provenance["continues"]["differs"]
    assert [line.partition(" ")[2].split()[0] for line in differs] == ["schedule", "8"]
    assert longer.config["max_steps"] is None
    assert longer.id != child.id
    checkpoints = Checkpoints(longer.folder, keep_last=1)
    assert (checkpoints.list_steps(), checkpoints.warnings) == ([4, 8], [])
    best, latest = checkpoints.best(), checkpoints.latest()
    assert best is not None
    assert latest is not None
    assert (best.step, latest.step, checkpoints.warnings) == (4, 8, [])
    events = list(journal.replay(longer.folder))
    assert not [event for event in events if event["event"] == "state" and event["state"] == "finished"]
    assert main(["reproduce", longer.folder.name]) == 2
    assert "cannot be repeated from the start, as it continues another run" in capsys.readouterr().err
    assert main(["share", longer.folder.name, "-o", "x.yaml"]) == 2
    assert "continues another run" in capsys.readouterr().err
    shutil.rmtree(other.folder / "checkpoints")
    assert main(["resume", "cosine", "max_steps=20"]) == 2
    assert "has no complete checkpoint to go on from" in capsys.readouterr().err
