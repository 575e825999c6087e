from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.parser import make_parser
from experiments.config import options
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.errors import InputError
from experiments.run.annotations import change_annotations
from experiments.sweep.create import prepare, write
from experiments.sweep.spec import read_overrides
from experiments.trial import trial as trial_module
from experiments.trial.parameters import make_inert
from experiments.trial.trial import (
    Trial,
    find_code_changes,
    find_latest,
    find_trial,
    freeze,
    resolve_runs_dir,
    trial_id,
)
from tests.support.clones import commit, git


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return compose([f"runs_dir={tmp_path}/runs", "max_steps=7", "optimizer.lr=1e-5"])


def test_the_frozen_configuration_is_the_composed_one(experiment: Experiment, tmp_path: Path) -> None:
    trial = freeze(experiment)
    assert trial.config == {**experiment.config, "resume": False}
    assert trial.folder == tmp_path / "runs" / "single" / trial.id
    assert (trial.runs_dir, trial.outcome(), trial.attempts()) == (tmp_path / "runs", None, [])


@pytest.mark.parametrize(
    "value",
    [1e-5, 1e30, float("inf"), 3.0, 10**20, "off", "12:30:45", "010", "1e-3", "ü\n#: x ", None, True, [], {}, ""],
)
def test_every_value_survives_the_file(experiment: Experiment, value: Any) -> None:
    experiment.config["tags"] = {"odd": value}
    frozen = freeze(experiment).config["tags"]["odd"]
    assert (frozen, type(frozen)) == (value, type(value))


def test_provenance_holds_what_a_result_depends_on(experiment: Experiment) -> None:
    provenance = freeze(experiment).provenance
    assert provenance["overrides"][1:] == ["max_steps=7", "optimizer.lr=1e-5"]
    assert provenance["seeds"] == {"seed": 0}
    assert provenance["data"] == {"files": None}
    assert provenance["packages"]["torch"]
    assert provenance["code"][0]["name"]
    assert {
        "python",
        "host",
        "platform",
        "cpu_cores",
        "created",
        "run_key",
        "config_dirs",
        "trust",
    } <= provenance.keys()


def test_freezing_a_configuration_twice_makes_two_runs(experiment: Experiment) -> None:
    first, second, third = (freeze(experiment) for _ in range(3))
    assert [run.folder.name for run in (first, second, third)] == [first.id, f"{first.id}-2", f"{first.id}-3"]
    assert first.id == third.id
    assert len({run.provenance["run_key"] for run in (first, second, third)}) == 3
    latest = find_latest(experiment)
    assert latest is not None
    assert latest.folder == third.folder


def test_the_id_depends_only_on_what_determines_the_result(experiment: Experiment) -> None:
    config = experiment.config
    assert trial_id({**config, "name": "x", "description": "y", "tags": {"a": "b"}, "runs_dir": "/z"}) == trial_id(
        config
    )
    assert trial_id({**config, "tracking": {}, "launcher": {}, "resume": True}) == trial_id(config)
    assert trial_id({**config, "data": {**config["data"], "root": "/elsewhere"}}) == trial_id(config)
    for changed in ({"seed": 1}, {"max_steps": 8}, {"model": {**config["model"], "dropout_prob": 0.1}}):
        assert trial_id({**config, **changed}) != trial_id(config)
    for group, name in (("model", "folder"), ("data", "num_folds")):  # arguments of a class of the user
        own = [{**config, group: {**config[group], "config": "x", name: value}} for value in (1, 2)]
        assert trial_id(own[0]) != trial_id(own[1])


def test_a_run_is_found_by_folder_id_and_prefix(experiment: Experiment, tmp_path: Path) -> None:
    first, second = freeze(experiment), freeze(experiment)
    runs_dir = tmp_path / "runs"
    for name in (str(first.folder), first.id):
        assert find_trial(name, runs_dir) == Trial(first.folder)
    assert find_trial(second.folder.name, runs_dir) == Trial(second.folder)
    assert find_trial(first.id[:5], runs_dir) == Trial(first.folder)  # and not its repetition
    shutil.copytree(first.folder, runs_dir / "single" / f"{first.id[:5]}fffff")
    with pytest.raises(InputError, match="is not unique"):
        find_trial(first.id[:5], runs_dir)
    with pytest.raises(InputError, match=r"there is no run 'zzz' in .*; known: "):
        find_trial("zzz", runs_dir)


def test_a_run_outside_sweeps_is_found_by_the_name_of_its_configuration(tmp_path: Path) -> None:
    for folder, name in (
        ("single/aa", "first"),
        ("single/bb", "'12: 30'"),
        ("single/cc", "twice"),
        ("single/dd", "twice"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "trial.yaml").write_text(f"name: {name}\nmodel:\n  name: inner\n")
    shutil.copytree(tmp_path / "single" / "aa", tmp_path / "sweep" / "ee")  # its name is that of all trials
    assert find_trial("first", tmp_path).folder.name == "aa"
    assert find_trial("12: 30", tmp_path).folder.name == "bb"
    with pytest.raises(InputError, match=r"run 'twice' is not unique in .*: cc, dd; write the id of one"):
        find_trial("twice", tmp_path)
    with pytest.raises(InputError, match=r"there is no run 'frist' in .*; did you mean 'first'\?"):
        find_trial("frist", tmp_path)
    change_annotations(tmp_path / "single" / "aa", lambda old: replace(old, name="other"))
    assert find_trial("other", tmp_path).folder.name == "aa"
    with pytest.raises(InputError, match="there is no run 'first'"):
        find_trial("first", tmp_path)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_freeze_leaves_no_folder(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def refuse(path: Path, text: str) -> None:
        if path.name == "trial.yaml":
            raise fault
        path.write_text(text)

    monkeypatch.setattr(trial_module, "write_text", refuse)
    expected = InputError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        freeze(experiment)
    assert list((tmp_path / "runs" / "single").glob("*/")) == []
    if isinstance(fault, OSError):
        assert "No space left on device; free space there or choose another runs_dir" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "is_checkout"),
    [("", True), (".", True), ("..", True), ("scratch", True), (".", False), ("scratch", False)],
)
def test_a_folder_of_runs_may_hold_other_work(
    name: str, is_checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "home" / "project"
    package = project / "mylab"
    for folder in (package, project / "scratch"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    if is_checkout:
        git(project, "init", "-q")
        commit(project, "first")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setenv("LATHE_RUNS", name)
    new = ["mylab/net2.py", "net3.py", "scratch/net4.py"]
    for file in new:
        (project / file).write_text("x = 1\n")
    experiment = compose(["max_steps=7"], trust=["mylab"])
    trial = freeze(experiment)
    assert trial.runs_dir == (project / (name.strip() or "runs")).resolve()
    sweep = write(prepare(read_overrides(["max_steps=7", "sweep.name=scan"]), trust=["mylab"]))
    assert sweep.folder == trial.runs_dir / "scan"
    assert not (project / ".gitignore").exists()
    assert not (project / "scratch" / ".gitignore").exists()
    entries = [each.provenance["code"][1] for each in (trial, sweep)]
    assert entries[0]["sha256"] == entries[1]["sha256"]  # runs are not code
    if is_checkout:
        assert sorted(git(project, "status", "--porcelain", "-uall").splitlines()) == [f"?? {file}" for file in new]
        for folder in (trial.folder, sweep.folder):
            with tarfile.open(folder / "code" / "project-untracked.tar.gz") as archive:
                assert sorted(archive.getnames()) == new


@pytest.mark.parametrize("variable", ["", "  ", None])
def test_without_a_name_runs_go_to_the_default_folder(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    if variable is not None:
        monkeypatch.setenv("LATHE_RUNS", variable)
    assert resolve_runs_dir({"runs_dir": "${oc.env:LATHE_RUNS,runs}"}) == tmp_path / "runs"
    assert resolve_runs_dir({"runs_dir": ""}) == tmp_path / "runs"
    assert make_parser()[0].parse_args(["ls"]).runs_dir == "runs"
    assert make_parser()[0].parse_args(["ls", "--runs-dir", ""]).runs_dir == "runs"
    assert make_parser()[0].parse_args(["ls", "--runs-dir", "~"]).runs_dir == str(Path.home())


def test_secrets_reach_no_file_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "ghp_" + "s3cR" * 9
    monkeypatch.setenv("MY_TOKEN", secret)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{secret}@example.org")
    overrides = [f"runs_dir={tmp_path}/runs", "tracking=server", "+tags.place=${oc.env:MY_TOKEN}"]
    trial = freeze(compose(overrides))
    for path in trial.folder.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    assert yaml.safe_load((trial.folder / "trial.yaml").read_text())["tags"] == {"place": "${oc.env:MY_TOKEN}"}
    with pytest.raises(InputError, match="looks like a secret") as caught:
        compose([f"+tags.place={secret}"])
    assert secret not in str(caught.value)


def test_a_command_names_a_run_by_its_id_or_else_its_folder(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = freeze(experiment)
    assert trial.reference == str(trial.folder)
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path / "runs"))
    assert trial.reference == trial.id
    monkeypatch.delenv("LATHE_RUNS")
    monkeypatch.chdir(tmp_path)
    assert trial.reference == trial.id


def test_an_unwritable_folder_is_reported(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=rf"runs_dir={tmp_path}/runs cannot be written"):
        freeze(experiment)
    assert os.listdir(tmp_path) == ["runs"]


def test_code_that_changed_since_the_freeze_is_reported(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    option = own / "model" / "flat.yaml"
    option.write_text(Path(options.CONF_DIR / "model" / "softmax.yaml").read_text())
    trial = freeze(compose(["model=flat", f"runs_dir={tmp_path}/runs"], config_dirs=[own]))
    assert find_code_changes(trial) == []
    option.write_text(option.read_text() + "# another word\n")
    (change,) = find_code_changes(trial)
    assert change.startswith("the code of 'own' has changed since this run was frozen")


@pytest.mark.parametrize(
    ("markdown", "inert"),
    [
        ("![x](http://x/y.png)", r"\![x](http://x/y.png)"), ("![x][y]", r"\![x][y]"), (r"\![x](y)", r"\![x](y)"),
        (r"\\![x](y)", r"\\\![x](y)"), ("<img src=x>", r"\<img src=x>"), ("</p><!-- -->", r"\</p>\<!-- -->"),
        ("**a** [x](y)! lr<0.1, `b`", "**a** [x](y)! lr<0.1, `b`"),
    ],
)  # fmt: skip
def test_a_note_loads_nothing_from_other_servers(markdown: str, inert: str) -> None:
    assert make_inert(markdown) == inert
    assert make_inert(inert) == inert
