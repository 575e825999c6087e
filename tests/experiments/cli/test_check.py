"""`lathe check` plans all experiments and sweeps of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli.main import main

FILES = {
    "experiment/good.yaml": "# @package _global_\ndefaults: [override /model: softmax, _self_]\nmax_steps: 5\n",
    "experiment/typo.yaml": "# @package _global_\nmax_stpes: 5\n",
    "experiment/misfit.yaml": "# @package _global_\ndefaults: [override /model: mlp, _self_]\nmodel: {num_features: 63}\n",
    "experiment/absent.yaml": "# @package _global_\ndefaults: [override /data: mnist, _self_]\ndata_root: /nowhere\n",
    "sweeps/lr.yaml": "base: [model=softmax]\nspace: {optimizer.lr: [0.1, 0.01]}\n",
    "sweeps/broken.yaml": "base: [model=softmax]\nspace: {optimizer.lrr: [0.1]}\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_each_experiment_and_sweep_is_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config-dir", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    states = [line for line in lines if not line.startswith("  -")]
    assert states == [
        "no data experiment=absent", "ok      experiment=good", "failed  experiment=misfit", "failed  experiment=typo",
        "failed  sweep broken", "ok      sweep lr", "2 ok, 1 no data, 3 failed",
    ]  # fmt: skip
    problems = [line for line in lines if line.startswith("  -")]
    assert len(problems) == 3
    for problem, text in zip(problems, ("does not accept a batch", "did you mean 'max_steps'", "'lrr'"), strict=True):
        assert text in problem
    for name in ("experiment/typo.yaml", "experiment/misfit.yaml", "sweeps/broken.yaml"):
        (folder / name).unlink()
    capsys.readouterr()
    auto = "# @package _global_\ndefaults: [override /model: mlp, override /parallel: auto, _self_]\n"
    (folder / "experiment/layout.yaml").write_text(f"{auto}hardware: {{memory_gb: 0.000001}}\n")
    assert main(["check", "--json", "--config-dir", str(folder)]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"ok": 2, "no data": 1, "failed": 1}
    failed = next(each for each in shown["checks"] if each["state"] == "failed")
    assert failed["name"] == "experiment=layout"
    assert "none of 1 layouts can run" in failed["problems"][0]
    (folder / "experiment/layout.yaml").write_text(auto)
    assert main(["check", "--config-dir", str(folder)]) == 0
    assert main(["check", "max_steps=ten", "--config-dir", str(folder)]) == 1


def test_a_folder_without_anything_to_check_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config-dir", str(tmp_path)]) == 2
    assert "has neither `experiment/*.yaml` nor `sweeps/*.yaml`" in capsys.readouterr().err
