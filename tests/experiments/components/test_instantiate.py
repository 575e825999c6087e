from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from experiments.components.instantiate import instantiate
from experiments.core.errors import InputError, PlanError
from modules.model import mlp
from modules.model.mlp import Mlp

MLP = {
    "_target_": "modules.model.mlp.Mlp",
    "num_features": 3,
    "num_classes": 2,
    "hidden_sizes": [5],
    "dropout_prob": 0.1,
}


def test_a_component_is_built_from_its_node() -> None:
    model = instantiate(MLP, "model")
    assert isinstance(model, Mlp)
    assert sum(p.numel() for p in model.parameters()) == 3 * 5 + 5 + 5 * 2 + 2


def test_a_partial_node_gives_a_factory() -> None:
    make = instantiate({"_target_": "torch.optim.sgd.SGD", "_partial_": True, "lr": 0.5}, "optimizer")
    assert isinstance(make, functools.partial)
    assert make([torch.zeros(2, requires_grad=True)]).param_groups[0]["lr"] == 0.5


def test_inner_components_are_built_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nesting.py").write_text(
        "class Holder:\n    def __init__(self, parts, by_name):\n        self.all = parts, by_name\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "nesting.Holder", "parts": [MLP, 3], "by_name": {"a": MLP, "b": {"c": 1}}}
    parts, by_name = instantiate(node, "model", ["nesting"]).all
    assert isinstance(parts[0], Mlp)
    assert isinstance(by_name["a"], Mlp)
    assert (parts[1], by_name["b"]) == (3, {"c": 1})


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.hub.load", "pickle.loads", "nn.Linear",
        "modules.model.mlp.cast", "modules.model.mlp.Sequence", "modules.data.digits.np.load", "modules.model.mlp",
        "launchers.local.os.system", "launchers.local.subprocess.Popen", "modules", "",
    ],
)  # fmt: skip
def test_only_targets_on_the_allow_list_run(target: str) -> None:
    with pytest.raises(InputError, match=r"model\._target_="):
        instantiate({"_target_": target, "args": "touch /tmp/stolen"}, "model")


def test_a_refused_module_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"if you trust it, add `--trust strange`"):
        instantiate({"_target_": "strange.Model"}, "model")


def test_an_error_of_a_constructor_is_reported_with_its_key() -> None:
    with pytest.raises(PlanError, match=r"model: Mlp wants dropout_prob in \[0, 1\), but got 2"):
        instantiate(MLP | {"dropout_prob": 2}, "model")
    with pytest.raises(PlanError, match=r"model: .*unexpected keyword"):
        instantiate(MLP | {"depth": 2}, "model")


def test_an_error_of_torch_is_reported_with_its_location() -> None:
    with pytest.raises(PlanError, match=r"model: RuntimeError: .* \(mlp\.py:\d+\); correct its values or its code"):
        instantiate(MLP | {"hidden_sizes": [9999999999999999]}, "model")


def test_a_users_launcher_without_launch_is_not_instantiated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text("class Launcher:\n    def __init__(self): raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"launcher\._target_=odd\.Launcher has neither launch nor submit"):
        instantiate({"_target_": "odd.Launcher"}, "launcher", ["odd"])


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("launcher", "launchers.processes.process.TrainingProcess"), ("model", "modules.model.gpt.Block"),
        ("data", "modules.data.own.folder_split.FolderSplit"), ("objective", "modules.objective.base.Objective"),
        ("parallel", "modules.parallel.asynchronous.replica.Replica"),
    ],
)  # fmt: skip
def test_a_class_without_the_mark_is_refused(key: str, target: str) -> None:
    with pytest.raises(InputError, match=rf"{key}\._target_={target} is not a component"):
        instantiate({"_target_": target}, key)


@pytest.mark.parametrize("target", ["launchers.local.Local", "modules.data.digits.Digits", "torch.optim.sgd.SGD"])
def test_a_component_in_the_wrong_place_is_refused_before_anything_is_built(target: str) -> None:
    node = {"_target_": "modules.model.logits_of.LogitsOf", "model": [MLP, {"_target_": target}]}
    with pytest.raises(InputError, match=rf"model\.model\[1\]\._target_={target} is in the wrong place"):
        instantiate(node, "model")
    with pytest.raises(InputError, match=r"takes no component"):
        instantiate({**MLP, "hidden_sizes": [MLP]}, "model")


def test_a_subclass_does_not_inherit_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = type("Deeper", (Mlp,), {"__module__": "modules.model.mlp"})
    monkeypatch.setattr(mlp, "Deeper", deeper, raising=False)
    with pytest.raises(InputError, match="is not a component"):
        instantiate(MLP | {"_target_": "modules.model.mlp.Deeper"}, "model")


def test_a_target_that_does_not_exist_is_reported() -> None:
    with pytest.raises(InputError, match=r"model\._target_=modules\.model\.mlp\.Nlp cannot be imported"):
        instantiate(MLP | {"_target_": "modules.model.mlp.Nlp"}, "model")


def test_the_environment_is_read_when_the_part_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"_target_": "modules.model.softmax.Softmax", "num_features": "${oc.env:NOT_THERE}", "num_classes": 2}
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(InputError, match=r"model needs the environment variable NOT_THERE; `export NOT_THERE=\.\.\.`"):
        instantiate(node, "model")
