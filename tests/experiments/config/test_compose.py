from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.core.errors import ConfigError, InputError
from experiments.trial.trial import trial_id

NET = "_target_: modules.model.mlp.Mlp\nnum_features: ${data.num_features}\nnum_classes: 10\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package in the current folder whose import writes a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    source = "from pathlib import Path\nPath('imported').touch()\nfrom torch import nn\n"
    source += "class Net(nn.Module):\n    def __init__(self, depth: int, width: int = 3) -> None:\n        super().__init__()\n"
    files = {"strangers/__init__.py": "", "strangers/net.py": source}
    files["mine/model/net.yaml"] = "# Mine.\n_target_: strangers.net.Net\ndepth: 2\n"
    return write(tmp_path, files)


def test_the_defaults_compose_to_plain_python() -> None:
    experiment = compose()
    assert experiment.config["model"]["_target_"] == "modules.model.lenet.LeNet"
    assert experiment.config["model"]["image_shape"] == [1, 8, 8]
    assert type(experiment.config["model"]) is dict
    assert experiment.choices["data"] == "digits"
    assert experiment.choices["experiment"] is None
    assert "hydra" not in experiment.config
    assert yaml.safe_load(yaml.safe_dump(experiment.config)) == experiment.config


def test_an_unnamed_run_is_named_by_its_model_and_data() -> None:
    assert compose().config["name"] == "lenet-digits"
    assert compose(["model=mlp"]).config["name"] == "mlp-digits"
    assert compose(["name=''"]).config["name"] == "lenet-digits"
    assert compose(["name=first"]).config["name"] == "first"


def test_overrides_apply_in_order() -> None:
    config = compose(["optimizer.lr=0.5", "optimizer=sgd", "seed=3", "optimizer.lr=0.25", "seed=4"]).config
    assert config["optimizer"]["_target_"] == "torch.optim.sgd.SGD"
    assert config["optimizer"]["lr"] == 0.25
    assert config["seed"] == 4


def test_a_map_as_the_value_of_a_group_is_merged_into_its_option() -> None:
    config = compose(["model=mlp", "model={hidden_sizes: [3]}"]).config
    assert config["model"]["hidden_sizes"] == [3]
    assert config["model"]["_target_"] == "modules.model.mlp.Mlp"
    assert config["model"]["num_features"] == 64


def test_a_map_that_is_an_argument_is_replaced(tmp_path: Path) -> None:
    """By the command line and by the file of an experiment; a plus adds to it. Other maps are merged."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\ndata:\n  files: {a: null}\n")

    def files(*more: str) -> object:
        return compose(["data=mnist", "experiment=own", *more], config_dirs=[tmp_path]).config["data"]["files"]

    assert files() == {"a": None}
    assert files("data.files={b: null}") == {"b": None}
    assert files("+data.files={b: null}") == {"a": None, "b": None}
    assert compose(["tags={a: x}", "tags={b: y}"]).config["tags"] == {"a": "x", "b": "y"}


def test_plus_adds_and_tilde_removes() -> None:
    assert compose(["+tags.team=vision", "tags.fold='3'"]).config["tags"] == {"team": "vision", "fold": "3"}
    assert compose(["+tags.team=vision", "~tags.team"]).config["tags"] == {}
    assert compose(["+tags.team=vision", "~tags.team=vision"]).config["tags"] == {}
    assert "weight_decay" not in compose(["~optimizer.weight_decay"]).config["optimizer"]
    assert compose(["+model=mlp"]).choices["model"] == "mlp"  # as many write it in Hydra
    assert compose(["+optimizer.amsgrad=true"]).config["optimizer"]["amsgrad"] is True


def test_an_experiment_sets_options_and_values_and_the_command_line_overrides_them(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults: [override /model: mlp, override /optimizer: sgd, _self_]\n"
    text += "model: {hidden_sizes: [7]}\noptimizer: {lr: 0.3}\nmax_steps: 5\nname: mine\n"
    write(tmp_path, {"experiment/mine.yaml": text})
    experiment = compose(["experiment=mine"], config_dirs=[tmp_path])
    assert experiment.choices["model"] == "mlp"
    assert experiment.config["model"]["hidden_sizes"] == [7]
    assert experiment.config["optimizer"]["momentum"] == 0.9
    assert experiment.config_dirs == (str(tmp_path),)
    changed = compose(["experiment=mine", "optimizer=adam", "max_steps=6"], config_dirs=[tmp_path]).config
    assert (changed["optimizer"]["_target_"], changed["optimizer"]["lr"]) == ("torch.optim.adam.Adam", 0.3)
    assert (changed["max_steps"], changed["name"]) == (6, "mine")


def test_several_config_dirs_with_special_characters_compose(tmp_path: Path) -> None:
    first = write(tmp_path / "it's [mine], a=b", {"model/one.yaml": NET + "hidden_sizes: [3]\ndropout_prob: 0.0\n"})
    second = write(
        tmp_path / "two", {"model/deep/two.yaml": "defaults: ['/model/one@_here_', _self_]\nhidden_sizes: [5]\n"}
    )
    assert compose(["model=one"], config_dirs=[first, second]).config["model"]["hidden_sizes"] == [3]
    both = compose(["model=deep/two"], config_dirs=[first, second])
    assert both.choices["model"] == "deep/two"
    assert both.config["name"] == "deep-two-digits"


def test_an_option_that_extends_its_own_group_gets_a_hint(tmp_path: Path) -> None:
    write(tmp_path, {"model/two.yaml": "defaults: [/model@_here_: mlp, _self_]\nhidden_sizes: [5]\n"})
    with pytest.raises(ConfigError, match="a defaults list contains itself"):
        compose(["model=two"], config_dirs=[tmp_path])


def test_nested_components_are_checked(tmp_path: Path) -> None:
    text = "_target_: modules.model.mlp.Mlp\nnum_features: 64\nnum_classes: 10\ndropout_prob: 0.1\n"
    write(tmp_path, {"model/nested.yaml": text + "hidden_sizes: [{_target_: modules.model.mlp.Mlpp}]\n"})
    with pytest.raises(ConfigError) as err:
        compose(["model=nested"], config_dirs=[tmp_path])
    assert any("model.hidden_sizes[0] takes no component" in problem for problem in err.value.problems)


def test_an_error_in_a_base_file_names_that_file(tmp_path: Path) -> None:
    files = {
        "model/base.yaml": NET + "hidden_sizes: [3]\ndropout_prob: much\n",
        "model/top.yaml": "defaults: [base, _self_]\n",
    }
    write(tmp_path, files)
    with pytest.raises(ConfigError) as err:
        compose(["model=top"], config_dirs=[tmp_path])
    assert err.value.problems == [
        f"model.dropout_prob=much ({tmp_path}/model/base.yaml:5) is not a number; write `model.dropout_prob=0.1` or the like"
    ]


def test_an_untrusted_package_is_refused_before_it_is_imported(package: Path) -> None:
    with pytest.raises(ConfigError, match="add `--trust strangers`"):
        compose(["model=net"], config_dirs=["mine"])
    assert compose(["model=net"], config_dirs=["mine"], trust=["strangers"]).config["model"]["depth"] == 2
    assert not (package / "imported").exists()
    assert "strangers" not in sys.modules


def test_the_constructor_of_a_trusted_class_is_its_schema(package: Path) -> None:
    with pytest.raises(ConfigError) as err:
        compose(["model=net", "model.depth=deep", "model.widht=3"], config_dirs=["mine"], trust=["strangers"])
    assert err.value.problems == [
        "model.depth=deep is not a whole number; write `model.depth=10` or the like",
        "model.widht=3: Net has no argument 'widht'; did you mean 'width'?",
    ]
    assert not (package / "imported").exists()


def test_the_users_settings_trust_a_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(package, {"config/lathe/settings.yaml": "trust: [strangers]\n"})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(package / "config"))
    experiment = compose(["model=net"], config_dirs=["mine"])
    assert experiment.config["model"]["_target_"] == "strangers.net.Net"
    assert experiment.trust == ()  # a trial says nothing of whom this machine trusts
    assert not (package / "imported").exists()


def test_references_to_the_environment_are_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "http://secret")
    config = compose(
        ["tracking.store=${oc.env:STORE}", "description='at ${oc.env:NOTE,home}'", "+tags.a=${oc.env:X,null}"]
    ).config
    assert config["tracking"]["store"] == "${oc.env:STORE}"
    assert config["description"] == "at ${oc.env:NOTE,home}"
    assert config["tags"]["a"] == "${oc.env:X,null}"
    assert config["runs_dir"] == "${oc.env:LATHE_RUNS,runs}"
    assert "secret" not in str(config)


def test_the_resolver_of_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    monkeypatch.setenv("STORE", "here")
    compose()
    assert OmegaConf.create({"a": "${oc.env:STORE}"}).a == "here"


def test_the_same_configuration_has_the_same_id_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["data=mnist", "optimizer.lr=1", "max_steps=7"]
    identity = trial_id(compose(overrides).config)
    monkeypatch.setenv("LATHE_DATA", str(tmp_path))
    monkeypatch.setenv("LATHE_RUNS", "/elsewhere")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.chdir(tmp_path)
    other = ["runs_dir=here", "name=other", "+tags.team=vision", "description=again", "tracking=off", "data_root=/data"]
    assert trial_id(compose([*overrides, *other]).config) == identity
    assert trial_id(compose(["max_steps=7", "optimizer.lr=1.0", "data=mnist"]).config) == identity
    assert trial_id(compose([*overrides, "seed=1"]).config) != identity


def test_the_output_of_cfg_composes_to_the_same_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["model=mlp", "optimizer=sgd"]
    for command in (["plan", "--cfg", "job"], ["run", "-c", "job"], ["plan", "--cfg"]):
        assert main([*command[:1], *chosen, "optimizer.lr=1e-5", "+tags.day='2024-01-01'", "seed=5", *command[1:]]) == 0
        printed = capsys.readouterr().out
        write(tmp_path, {"experiment/again.yaml": f"# @package _global_\n{printed}"})
        again = compose([*chosen, "experiment=again"], config_dirs=[tmp_path]).config
        assert again == yaml.safe_load(printed)
        assert trial_id(again) == trial_id(compose([*chosen, "optimizer.lr=0.00001", "seed=5"]).config)


def test_flags_and_overrides_are_accepted_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one", {"model/a.yaml": NET + "hidden_sizes: [3]\ndropout_prob: 0\n"})
    two = write(tmp_path / "two", {"data/b.yaml": "_target_: modules.data.digits.Digits\nnum_features: 64\n"})
    args = ["--config-dir", str(one), "model=a", "--cfg", "seed=5", "-cd", str(two), "--trust", "some", "max_steps=2"]
    assert main(["plan", *args]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["seed"], config["max_steps"], config["model"]["hidden_sizes"]) == (5, 2, [3])
    assert config["model"]["dropout_prob"] == 0.0


def test_a_secret_that_a_later_override_replaces_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "x")
    with pytest.raises(ConfigError) as err:
        compose(["+tags.password=hunter2", "+tags.password=${oc.env:PASSWORD}"])
    assert len(err.value.problems) == 1
    assert "hunter2" not in str(err.value)


def test_every_problem_is_reported_once() -> None:
    with pytest.raises(InputError) as err:
        compose(["max_step=1", "max_step=1", "model=mpl", "model.depth=2", "seed=x", "name=[", "seed=1,2"])
    assert len(err.value.problems) == 5


@pytest.mark.parametrize("is_in_use", [False, True])
def test_compose_leaves_the_hydra_of_the_process_unchanged(tmp_path: Path, *, is_in_use: bool) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    write(tmp_path, {"mine.yaml": "a: 1\n"})
    context = hydra.initialize_config_dir(str(tmp_path), version_base="1.2") if is_in_use else nullcontext()
    with context:
        with pytest.raises(ConfigError):
            compose(["model=mpl"])
        with ThreadPoolExecutor(2) as pool:
            seeds = pool.map(lambda seed: compose([f"seed={seed}"]).config["seed"], range(2))
        assert list(seeds) == [0, 1]
        assert GlobalHydra.instance().is_initialized() is is_in_use
        assert not is_in_use or hydra.compose("mine") == {"a": 1}


HEADER = "# @package _global_\n"


@pytest.mark.parametrize("head", [f"\ufeff{HEADER}", HEADER, f"# mine\n\n{HEADER}", f"\n{HEADER}", ""])
def test_the_package_of_an_experiment_is_its_first_line(head: str, tmp_path: Path) -> None:
    text = f"{head}defaults:\n  - override /model: softmax\nmax_steps: 7\n"
    write(tmp_path, {"experiment/mine.yaml": text})
    if head.lstrip("\ufeff\n").startswith("# @package"):
        assert compose(["experiment=mine"], config_dirs=[tmp_path]).config["max_steps"] == 7
        return
    with pytest.raises(ConfigError, match="`# @package _global_` the first line of its file"):
        compose(["experiment=mine"], config_dirs=[tmp_path])


def leaves(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [leaf for inner in node.values() for leaf in leaves(inner)]
    return [leaf for inner in node for leaf in leaves(inner)] if isinstance(node, list) else [node]


def test_compose_returns_only_plain_values() -> None:
    config = compose(["model=mlp", "optimizer=sgd", "data=mnist"]).config
    assert {type(leaf) for leaf in leaves(config)} <= {str, int, float, bool, type(None)}
