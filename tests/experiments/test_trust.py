"""Trust comes from the command line and the user's settings. Folders and files from someone else grant none."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.main import main
from experiments.sweep.create import prepare, write
from experiments.sweep.spec import read_overrides
from experiments.sweep.submit import make_pool
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.claims import TrialQueue
from launchers.base import WORKER_MODULE
from launchers.local import Local
from launchers.slurm_tasks import task
from tests.support.ledgers import claim_trial, end_trial, ids, make_idle_sweep
from tests.support.waiting import PATIENCE_S
from tests.support.workers import QUICK, read_entries, start_worker

RECORDED = Path(__file__).parent / "old_runs"
FINISHED = "88fd0c5aec"
NET = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, num_features: int, num_classes: int, inner: nn.Module | None = None) -> None:
        super().__init__(num_features, num_classes)

    def forward(self, inputs):
        return super().forward(inputs.flatten(1))
"""
MODEL = ("~model.hidden_sizes", "~model.dropout_prob", "model._target_=mylab.net.Net")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the code of a package on the import path makes when it is imported or built."""
    marker = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass Launcher:\n    def __init__(self, **kwargs): open({str(marker)!r}, 'w')\n"
        "    def launch(self, spec): ...\n    def submit(self, pool): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return marker


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's package, which the user's settings trust."""
    (tmp_path / "src" / "mylab").mkdir(parents=True)
    (tmp_path / "src" / "mylab" / "__init__.py").touch()
    (tmp_path / "src" / "mylab" / "net.py").write_text(NET)
    (tmp_path / "config" / "lathe").mkdir(parents=True)
    (tmp_path / "config" / "lathe" / "settings.yaml").write_text("trust: [mylab]\n")
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def record_started_processes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the workers that a local launcher would start; none is started."""
    commands: list[list[str]] = []

    def record(path: str, command: list[str], *args: object, **kwargs: object) -> int:
        commands.append(command)
        return 1

    monkeypatch.setattr(os, "posix_spawn", record)
    return commands


PAYLOADS: dict[str, Callable[[str], dict[str, Any]]] = {
    "a class of another package": lambda marker: {"_target_": "evil.Launcher"},
    "a class inside an argument": lambda marker: {
        "_target_": "launchers.slurm.Slurm", "environment": [{"_target_": "evil.Launcher"}],
    },
    "a class that is no component": lambda marker: {
        "_target_": "modules.parallel.asynchronous.server_process.UpdateCounter", "path": marker,
    },
    "a component that holds another class": lambda marker: {
        "_target_": "modules.model.logits_of.LogitsOf", "model": {"_target_": "evil.Launcher"},
    },
}  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_commands_that_look_at_a_sweep_build_nothing_in_it(
    payload: str, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = marker.parent / "runs"
    sweep = make_idle_sweep(runs, "s", [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}])
    config = {"max_steps": 10, "launcher": PAYLOADS[payload](str(marker)), "tracking": {"sync": "off", "store": None}}
    (sweep.folder / "templates.json").write_text(
        json.dumps([{"choices": {}, "config": config, "links": {}, "overrides": []}])
    )
    provenance = {"run_key": "key", "trust": ["evil", "modules", "launchers"], "config_dirs": []}
    (sweep.folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
    claim_trial(sweep, ids(2)[0])
    end_trial(sweep, ids(2)[0], "failed", value=None, step=3, failure="exception", reason="it failed")
    monkeypatch.setattr("experiments.components.instantiate._create", lambda *args: pytest.fail("something is built"))
    for command in (["status"], ["status", "s"], ["status", "s", "--json"], ["logs", "s"], ["ls"], ["report", "s"]):
        main([*command, "--runs-dir", str(runs)])
        assert not marker.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("command", ["cancel", "resume"])
def test_commands_that_act_on_a_sweep_need_the_trust_of_the_user(
    command: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(RECORDED / "runs", marker.parent / "runs")
    sweep = Sweep(marker.parent / "runs" / "old")
    templates = json.loads((sweep.folder / "templates.json").read_text())
    for payload in PAYLOADS.values():
        templates[0]["config"]["launcher"] = payload(str(marker))
        (sweep.folder / "templates.json").write_text(json.dumps(templates))
        provenance = {**sweep.provenance, "trust": ["evil", "modules", "launchers"]}
        (sweep.folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
        code = main([command, "old", "--runs-dir", "runs"])
        assert not marker.exists()
        assert code == (0 if command == "cancel" and "slurm" in templates[0]["config"]["launcher"]["_target_"] else 2)
    assert "_target_=" in capsys.readouterr().err
    assert "evil" not in sys.modules


INNER = {"_target_": "modules.parallel.asynchronous.server_process.UpdateCounter", "path": "it_ran"}
HOSTILE_MODELS: dict[str, dict[str, Any]] = {
    "no component, at the root": INNER,
    "no component, inside": {"_target_": "modules.model.logits_of.LogitsOf", "model": INNER},
    "no component, in a list": {"_target_": "modules.model.mlp.Mlp", "hidden_sizes": [INNER]},
    "of another group": {"_target_": "modules.model.logits_of.LogitsOf", "model": {"_target_": "launchers.local.Local"}},
    "a function": {"_target_": "modules.data.base.check_split", "split": "train"},
    "processes": {
        "_target_": "modules.model.logits_of.LogitsOf",
        "model": {
            "_target_": "launchers.processes.process_group.LocalRanks",
            "first": {"_target_": "launchers.processes.process.TrainingProcess"},
            "spec": {"_target_": "launchers.base.AttemptSpec", "folder": "x", "attempt": 1, "trust": ["subprocess"]},
        },
    },
}  # fmt: skip
COMMANDS = (
    ["resume", FINISHED], ["predict", FINISHED, "a.png"], ["export", FINISHED, "-o", "exported"], ["reproduce", FINISHED],
    ["simulate", FINISHED], ["reproduce", "shared.yaml"], ["plan", "--from", "shared.yaml"], ["run", "--from", "shared.yaml"],
)  # fmt: skip


@pytest.mark.parametrize("model", HOSTILE_MODELS)
def test_every_command_checks_a_foreign_configuration_before_it_builds(
    model: str, marker: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RECORDED, marker.parent, dirs_exist_ok=True)
    monkeypatch.setenv("LATHE_RUNS", "runs")
    trial = Path("runs", "single", FINISHED)
    config = yaml.safe_load((trial / "trial.yaml").read_text())
    (trial / "trial.yaml").write_text(yaml.safe_dump({**config, "model": HOSTILE_MODELS[model]}))
    (trial / "outcome.json").write_text(
        json.dumps({"status": "interrupted", "attempt": 1, "reason": None, "ended": 0.0})
    )
    shared = yaml.safe_load(Path("shared.yaml").read_text())
    shared["configuration"]["model"] = HOSTILE_MODELS[model]
    Path("shared.yaml").write_text(yaml.safe_dump(shared, sort_keys=False))
    for command in COMMANDS:
        assert main(command) == 2, command
        assert "model" in capsys.readouterr().err, command
        assert not marker.exists(), command


@pytest.mark.parametrize("strategy", ["grid", "random", "tpe"])
def test_a_sweep_takes_trust_from_the_settings_to_its_workers(
    strategy: str, mylab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "optimizer.lr=0.1,0.2" if strategy == "grid" else "optimizer.lr=interval(0.1,0.2)"
    more = [] if strategy == "grid" else [f"sweep.strategy={strategy}", "sweep.budget.max_points=2"]
    overrides = [*QUICK, "model=mlp", *MODEL, "tracking=off", f"runs_dir={mylab / 'runs'}", space, *more]
    sweep = write(prepare(read_overrides(overrides, name="s")))
    assert sweep.trust == ("mylab",)
    pool = make_pool(sweep.folder, sweep.templates(), sweep.provenance["worker"], sweep.spec, 2, sweep.provenance)
    commands = record_started_processes(monkeypatch)
    Local(workers=1).submit(pool)
    assert commands[0][-2:] == [str(sweep.folder), "--trust=mylab"]

    def claim(trust: tuple[str, ...]) -> object:
        own = Sweep(sweep.folder, trust)
        return TrialQueue(own, own.ledger(), own.templates(), own.study(), worker="w", devices=1).claim()

    assert claim(("mylab",)) is not None
    assert claim(()) is None
    (failed,) = [entry for entry in read_entries(sweep) if entry.state == "failed"]
    assert "add `--trust mylab`" in str(failed.reason)


@pytest.mark.slow
def test_trials_of_a_package_in_the_settings_train(mylab: Path) -> None:
    overrides = [*QUICK, "model=mlp", *MODEL, "tracking=off", f"runs_dir={mylab / 'runs'}", "max_steps=2"]
    sweep = write(prepare(read_overrides(overrides, name="s")))
    assert start_worker(sweep).wait(timeout=PATIENCE_S) == 0, (sweep.folder / "workers" / "w.txt").read_text()
    assert [(entry.state, entry.reason) for entry in read_entries(sweep)] == [("finished", None)]


def test_resume_of_a_sweep_takes_trust_from_the_command_line(
    mylab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*QUICK, "model=mlp", *MODEL, "tracking=off", f"runs_dir={mylab / 'runs'}"]
    write(prepare(read_overrides(overrides, name="s")))
    (mylab / "config" / "lathe" / "settings.yaml").unlink()
    assert main(["resume", "s", "--runs-dir", str(mylab / "runs"), "--detach"]) == 2
    assert "model._target_=mylab.net.Net is not on the list of code that may run" in capsys.readouterr().err
    commands = record_started_processes(monkeypatch)
    assert main(["resume", "s", "--runs-dir", str(mylab / "runs"), "--detach", "--trust", "mylab"]) == 0
    assert [command[-1] for command in commands] == ["--trust=mylab"] * len(commands) != []


def test_a_slurm_task_hands_its_trust_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "--per-node",
        "1",
        "--devices",
        "1",
        "--device",
        "cpu",
        "--lead-s",
        "60",
        "folder",
        "--trust=a",
        "--trust=b",
    ]
    options = task.parse_options(words)
    assert (options.folder, list(options.trust), options.module) == ("folder", ["a", "b"], WORKER_MODULE)


def test_a_users_class_may_be_named_at_any_depth(mylab: Path) -> None:
    from experiments.config.compose import compose

    inner = (
        "{_target_: mylab.net.Net, num_features: 3, num_classes: 2, inner: {_target_: modules.model.softmax.Softmax, "
    )
    inner += "num_features: 3, num_classes: 2}}"
    assert compose(["model=mlp", *MODEL, f"+model.inner={inner}"]).config["model"]["inner"]["inner"]
    assert main(["plan", "model=mlp", *MODEL, "+model.inner={_target_: launchers.local.Local}"]) == 2
