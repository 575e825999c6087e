"""The `config.yaml` and the groups of a user's folder, and several experiments at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import change, compose
from experiments.config.experiment import Experiment
from experiments.core.errors import ConfigError
from experiments.trial.trial import trial_id

FILES = {
    "config.yaml": "defaults: [model: mlp, optimizer: sgd, tracking: off, augment: weak]\n"
    "max_steps: 7\noptimizer: {lr: 0.5}\nuser: {width: 9}\n",
    "augment/weak.yaml": "noise: 0.1\n",
    "augment/strong.yaml": "noise: 0.3\n",
    "experiment/wide.yaml": "# @package _global_\ndefaults: [override /model: mlp, override /augment: strong, _self_]\n"
    "seed: 1\nmax_steps: 8\nmodel: {hidden_sizes: ['${user.width}'], dropout_prob: '${user.augment.noise}'}\n",
    "experiment/long.yaml": "# @package _global_\ndefaults: [base, override /augment: weak, _self_]\nmax_steps: 9\n",
    "experiment/base.yaml": "# @package _global_\ndefaults: [override /schedule: cosine, override /optimizer: adam, _self_]\n"
    "batch_size_global: 8\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def values(experiment: Experiment) -> dict[str, Any]:
    config = experiment.config
    return {
        "target": config["model"]["_target_"].rpartition(".")[2],
        "optimizer": config["optimizer"]["_target_"].rpartition(".")[2],
        "lr": config["optimizer"]["lr"],
        "steps": config["max_steps"],
        "user": config["user"],
    }


WEAK, STRONG = ({"augment": {"noise": noise}, "width": 9} for noise in (0.1, 0.3))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"target": "Mlp", "optimizer": "SGD", "lr": 0.5, "steps": 7, "user": WEAK}),
        (["model=lenet", "max_steps=3"], {"target": "LeNet", "optimizer": "SGD", "lr": 0.5, "steps": 3, "user": WEAK}),
        (["experiment=wide"], {"target": "Mlp", "optimizer": "SGD", "lr": 0.5, "steps": 8, "user": STRONG}),
        (
            ["experiment=wide", "augment=weak", "user.width=5"],
            {"target": "Mlp", "optimizer": "SGD", "lr": 0.5, "steps": 8, "user": {**WEAK, "width": 5}},
        ),
        (["augment=null"], {"target": "Mlp", "optimizer": "SGD", "lr": 0.5, "steps": 7, "user": {"width": 9}}),
        (["experiment=[wide,long]"], {"target": "Mlp", "optimizer": "Adam", "lr": 0.5, "steps": 9, "user": WEAK}),
        (["experiment=[long,wide]"], {"target": "Mlp", "optimizer": "Adam", "lr": 0.5, "steps": 8, "user": STRONG}),
        (
            ["experiment=[long,wide]", "+augment=weak"],
            {"target": "Mlp", "optimizer": "Adam", "lr": 0.5, "steps": 8, "user": WEAK},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_line_comes_before_experiments_before_the_users_defaults(
    folder: Path, overrides: list[str], expected: dict[str, Any]
) -> None:
    assert values(compose(overrides, config_dirs=[folder])) == expected


def test_each_value_says_where_it_is_written(folder: Path) -> None:
    lines = list(compose(["experiment=wide", "seed=3"], config_dirs=[folder]).list_origins())
    for line in (
        "seed=3  (the command line)",
        f"max_steps=8  ({folder}/experiment/wide.yaml:4)",
        f"optimizer.lr=0.5  ({folder}/config.yaml:3)",
        f"user.augment.noise=0.3  ({folder}/augment/strong.yaml:1)",
        f"model.hidden_sizes=[9]  ({folder}/experiment/wide.yaml:5)",
        f"model.dropout_prob=0.3  ({folder}/experiment/wide.yaml:5, ${{user.augment.noise}})",
        "schedule.warmup_steps=0  (Lathe: conf/schedule/constant.yaml:3)",
        "tags={}  (Lathe's default)",
    ):
        assert line in lines


def test_the_folder_is_not_needed_to_repeat_a_trial(folder: Path) -> None:
    config = compose(["experiment=wide"], config_dirs=[folder]).config
    again = change(config, ["seed=1"], "trial").config
    assert {**again, "name": config["name"]} == config
    assert trial_id({**config, "user": {}}) == trial_id({key: value for key, value in config.items() if key != "user"})
    moved = change(config, ["augment=weak"], "trial", config_dirs=[folder]).config
    assert moved["user"] == WEAK


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("defaults: [modle: mlp]", "defaults: modle: mlp (FILE) is no default of a group; did you mean 'model'?"),
        ("defaults: [model]", "defaults: model: null (FILE) leaves the required group 'model' empty"),
        (
            "defaults: [model: mpl]",
            "defaults: model: mpl (FILE) is not an option of the group 'model'; did you mean 'mlp'?",
        ),
        ("defaults: [model: [mlp, lenet]]", "defaults: model: [mlp,lenet] (FILE) gives several options"),
        ("defaults: {model: mlp}", "defaults (FILE) is no list; write `defaults: [model: mlp]`"),
        ("defaults: [3]", "defaults: 3: null (FILE) is no default of a group"),
        ("max_stesp: 3", "max_stesp=3 (FILE:1): the configuration has no key 'max_stesp'"),
        ("user: 3", "user=3 (FILE:1) is not a map"),
        ("max_steps: [", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_config_yaml_is_reported(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        compose([], config_dirs=[tmp_path])
    assert message.replace("FILE", str(tmp_path / "config.yaml")) in str(caught.value)


def test_an_untrusted_config_yaml_sets_no_shell_command(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "defaults: [hardware: cpu_partition]\nhardware: {slurm: {setup: ['touch /tmp/x']}}\n"
    )
    with pytest.raises(ConfigError, match="only a file that you trust may do that"):
        compose([], config_dirs=[tmp_path])
