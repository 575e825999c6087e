"""Only the command line and trusted files set what runs in a shell, and where results and secrets are sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.compose import compose
from experiments.config.rules.trusted_files import TrustedFiles
from experiments.core.errors import InputError
from experiments.plan.tables import machine_table
from experiments.results.zoo.rows import read_rows
from experiments.sweep.spec import read
from experiments.tracking.store_uri import StoreError, check_login
from tests.support.hostile_files import write_experiment

SETTINGS = {
    "shell": "hardware: {slurm: {setup: ['touch /tmp/x']}}",
    "srun": "hardware: {slurm: {srun_args: ['--prolog=/tmp/x']}}",
    "sbatch": "hardware: {slurm: {sbatch: {wrap: id}}}",
    "sbatch_flag": "hardware: {slurm: {sbatch: {'x\\nid': ''}}}",
    "sbatch_line": "hardware: {slurm: {partition: \"cpu\\ntouch x #\"}}",
    "container": "hardware: {slurm: {container: evil.sqsh}}",
    "interpreter": "launcher: {python: /tmp/x}",
    "variables": "launcher: {environment: [AWS_SECRET_ACCESS_KEY]}",
    "store": "tracking: {store: 'http://example.org'}",
    "store_with_secret": "tracking: {store: 'http://example.org/${oc.env:HOME}'}",
    "store_by_reference": "tags: {a: 'http://example.org'}\ntracking: {store: '${tags.a}'}",
    "team": "tracking: {trackers: {wandb: {_target_: experiments.tracking.trackers.wandb.Wandb, entity: them}}}",
    "secret_in_tag": "tags: {a: '${oc.env:HOME}'}",
    "secret_in_default": "data: {root: '${oc.env:LATHE_DATA,${oc.env:HOME}}'}",
    "secret_in_spaces": "description: '${ oc.env : HOME }'",
    "secret_escaped": "description: '\\${oc.env:HOME}'",
    "secret_joined": "tags: {a: $, b: '${tags.a}{oc.env:HOME}'}",
    "merge_key": "hardware: {slurm: {<<: {setup: [id]}}}",
}  # fmt: skip
OVERRIDES = ["hardware=a100_4", "launcher=slurm", "experiment=foreign"]


@pytest.mark.parametrize("text", SETTINGS.values(), ids=SETTINGS)
def test_an_untrusted_folder_sets_nothing_that_runs_or_sends(text: str, tmp_path: Path) -> None:
    write_experiment(tmp_path, text)
    with pytest.raises(InputError, match=rf"only a file that you trust.*--trust {tmp_path}"):
        compose(OVERRIDES, config_dirs=[tmp_path])
    files = TrustedFiles([f"{tmp_path}/"])
    assert tmp_path / "experiment" / "foreign.yaml" in files
    assert tmp_path.with_name(f"{tmp_path.name}2") / "experiment" / "foreign.yaml" not in files


@pytest.mark.parametrize(
    "text", ["launcher: {workers: 2}", "hardware: {slurm: {mem_gb_per_device: 4}}", "description: 'in ${data_root}'"]
)
def test_an_untrusted_folder_may_set_everything_else(text: str, tmp_path: Path) -> None:
    write_experiment(tmp_path, text)
    assert compose(OVERRIDES, config_dirs=[tmp_path]).config


def test_a_trusted_file_does_not_bring_an_untrusted_value_into_the_shell(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    write_experiment(own, "hardware: {slurm: {setup: ['echo ${description}']}}", "own")
    write_experiment(foreign, "description: '$(id)'")
    chosen = ["hardware=a100_4", "launcher=slurm", "experiment=own"]
    trust = [f"{own}/"]
    assert compose(chosen, config_dirs=[own], trust=trust).config["hardware"]["slurm"]["setup"] == ["echo None"]
    (foreign / "experiment" / "foreign.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/own@_here_, _self_]\ndescription: $(id)\n"
    )
    with pytest.raises(InputError, match=r"hardware\.slurm\.setup\[0\].*goes into the batch script"):
        compose([*chosen[:2], "experiment=foreign"], config_dirs=[own, foreign], trust=trust)


def test_a_link_in_a_trusted_folder_leads_to_no_trusted_file(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    path = write_experiment(foreign, SETTINGS["store"])
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "foreign.yaml").symlink_to(path)
    with pytest.raises(InputError, match="only a file that you trust"):
        compose(["experiment=foreign"], config_dirs=[own], trust=[f"{own}/"])


def test_settings_and_packages_trust_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_experiment(tmp_path / "lab_package" / "conf", SETTINGS["store"])
    (tmp_path / "lab_package" / "__init__.py").touch()
    folders = [tmp_path / "lab_package" / "conf"]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert compose(["experiment=foreign"], config_dirs=folders, trust=["lab_package"]).trust == ("lab_package",)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "lathe").mkdir()
    (tmp_path / "lathe" / "settings.yaml").write_text(f"trust: [{tmp_path}]\n")
    assert compose(["experiment=foreign"], config_dirs=folders).trust == ()


@pytest.mark.parametrize(
    "text",
    [
        "base: ['hardware.slurm.setup=[id]']", "base: ['launcher={python: /tmp/x}']", "space: {tracking.store: [a, b]}",
        "points: [['tracking.store=http://example.org']]", "base: ['+tags.a=${oc.env:HOME}']",
        "base: ['+tags.a=$', '+tags.b=\"${tags.a}{oc.env:HOME}\"']", "base: ['+tags.a=${tracking.store}']",
        "space: {model: {mlp: {launcher.python: [/tmp/x]}}}",
    ],
)  # fmt: skip
def test_an_untrusted_sweep_file_sets_nothing_that_runs_or_sends(text: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.yaml"
    path.write_text(f"metric: val/accuracy_top1\n{text}\n")
    with pytest.raises(InputError, match="only a file that you trust"):
        read(str(path))
    path.write_text("base: [launcher=slurm, hardware=a100_4]\nspace: {seed: [1, 2], model: [mlp, lenet]}\n")
    assert read(str(path)).count_points() == 4


def test_a_header_of_the_zoo_sets_nothing_that_runs(tmp_path: Path) -> None:
    write_experiment(tmp_path, "seed: 1", header="# Measure: test/accuracy_top1 with hardware.slurm.setup=[id]\n")
    with pytest.raises(InputError, match=r"sets hardware\.slurm\.setup"):
        read_rows([str(tmp_path)])


def test_the_plan_shows_what_a_shell_runs_and_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    config = compose(
        ["hardware=a100_4", "launcher=slurm", "hardware.slurm.setup=[module load cuda]", "launcher.python=/opt/python",
         "launcher.environment=[HF_TOKEN]", "tracking.store=http://lab:5000"]
    ).config  # fmt: skip
    table = machine_table(config)
    assert table is not None
    shown = " ".join(str(cell) for cell in table.columns[1].cells)
    assert shown == "module load cuda /opt/python HF_TOKEN http://lab:5000, with MLFLOW_TRACKING_PASSWORD"
    assert machine_table(compose([]).config) is None


@pytest.mark.parametrize("store", ["http://other:5000", "https://lab:5000", "http://lab:5001", "http://lab@other:5000"])
def test_a_login_goes_only_to_the_server_that_it_is_for(store: str) -> None:
    with pytest.raises(StoreError, match="is another server than MLFLOW_TRACKING_URI=http://lab:5000"):
        check_login(store, True, "http://lab:5000")
    check_login(store, False, "http://lab:5000")
    check_login(store, True, None)
    check_login("http://lab:5000/path", True, "http://lab:5000")
