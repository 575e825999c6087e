from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from experiments.cli.completion import complete
from experiments.cli.main import main
from experiments.trial.trial import to_yaml
from tests.experiments.plan.simulate.test_from_run import make_run

PLANNED = ["simulate", "model=mlp", "hardware=cpu_partition", "batch_size_global=32"]


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    from experiments.config.compose import compose

    config = compose(["model=mlp", "hardware=cpu_4", "hardware.cpu_cores=4", "parallel=data"]).config
    for name, step_ms in (("abc", 30.0), ("bcd", 33.0)):
        trial = make_run(tmp_path / "runs" / "single" / name, [900.0, step_ms, step_ms])
        (trial.folder / "provenance.yaml").write_text(json.dumps({"trial_id": name}))
        (trial.folder / "trial.yaml").write_text(to_yaml(config))
    return tmp_path / "runs"


def test_a_run_is_simulated_at_any_number_of_workers(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "abc", "--workers", "1,8", "--mode", "sync,async", "--against", "bcd"]) == 0
    output = capsys.readouterr().out
    assert "simulated from run abc" in output
    assert "nodes             4 workers each; 1 GB/s within, 1.25 GB/s between" in output
    assert "async: servers apply every gradient when it arrives" in output
    row = next(line for line in output.splitlines() if line.startswith("run bcd"))
    assert row.split()[2:4] == ["sync", "3"]
    assert row.rstrip().endswith("%")


def test_only_the_hardware_of_a_run_can_be_changed(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "abc", "hardware.devices_per_node=2", "--workers", "4", "--mode", "sync"]) == 0
    assert "nodes             2 workers each" in capsys.readouterr().out
    assert main(["simulate", "abc", "model=lenet", "--workers", "4"]) == 2
    assert "model=lenet: a run's measurements hold only for its own experiment" in capsys.readouterr().err


def test_an_experiment_is_simulated_from_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [*PLANNED, "--workers", "1,6", "--seed", "3", "--slow", "1:3", "--times", "constant", "--json", "-o", "out"]
    assert main(args) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["source"] == "the plan of 'mlp-digits'"
    assert output["cluster"]["batch_size"] == 32
    assert output["num_samples"] == 32 * 300
    results = {(result["mode"], result["workers"]): result for result in output["results"]}
    assert len(results) == 10
    assert results["sync", 6]["speedup"] < results["async", 6]["speedup"]  # which does not wait for the slow one
    rows = list(csv.DictReader(Path("out/simulation.csv").read_text().splitlines()))
    assert [float(row["speedup"]) for row in rows] == [result["speedup"] for result in output["results"]]
    assert json.loads(Path("out/simulation.json").read_text()) == output
    assert Path("out/simulation.png").read_bytes().startswith(b"\x89PNG")
    assert "Speed-up" in Path("out/simulation.svg").read_text()


def test_cores_and_servers_can_be_set(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    rates = []
    for more in ([], ["--cores", "1.5"], ["--servers", "3"]):
        assert main(["simulate", "abc", "--workers", "4", "--mode", "async", "--json", *more]) == 0
        output = json.loads(capsys.readouterr().out)
        rates.append(output["results"][0]["examples_per_s"])
    assert rates[1] < 0.6 * rates[0]
    assert output["cluster"]["servers"] == 3


def test_runs_and_overrides_complete(runs_dir: Path) -> None:
    assert complete(["lathe", "simulate", "ab"]) == ["abc"]
    assert complete(["lathe", "simulate", "--runs-dir", "runs", "model=ml"]) == ["model=mlp"]
    assert "--servers" in complete(["lathe", "simulate", "--s"])
