"""Initial weights from another run, and frozen parts of a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.components.assemble import assemble
from experiments.components.load_weights import has_prefix, load_initial_weights
from experiments.config.compose import compose
from experiments.core.errors import InputError, PlanError
from experiments.plan.fit import check_fit
from experiments.plan.plan import make_plan
from experiments.trial.initial_weights import FILE, check_copy, copy_weights, find_weights, list_sources
from experiments.trial.trial import Trial, find_trial, freeze, trial_id
from modules.model.logits_of import LogitsOf
from tests.conftest import Lathe

MLP = ("model=mlp", "model.hidden_sizes=[6,5]", "tracking=off", "hardware.device=cpu")
SHORT = ("max_steps=4", "eval_every_steps=4", "checkpoint.every_steps=4")


class Net(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.head = nn.Linear(6, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.trunk(inputs))
        return outputs


def config(
    *skip: str, weights: str | dict[str, str] | None = "x", freeze: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    return {"init_from": {"weights": weights, "skip": list(skip), **more}, "freeze": list(freeze)}


def saved(folder: Path, model: nn.Module, **more: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "net.safetensors"
    save_file({**model.state_dict(), **more}, path)
    return path


def test_a_model_starts_with_the_weights_of_a_file_except_skipped_ones(tmp_path: Path) -> None:
    source, model = Net(), Net(num_classes=2)
    nn.init.constant_(source.trunk[1].get_buffer("running_mean"), 7)
    head = model.head.weight.detach().clone()
    assert load_initial_weights(model, config("head"), {"": saved(tmp_path, source)}).problems == []
    for name, tensor in source.trunk.state_dict().items():
        assert torch.equal(model.trunk.state_dict()[name], tensor), name
    assert torch.equal(model.head.weight, head)


def test_every_mismatch_is_reported_with_its_shape_and_nothing_is_loaded(tmp_path: Path) -> None:
    source, model = Net(), Net(num_classes=2)
    path = saved(tmp_path, source, **{"extra.bias": torch.zeros(1)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    problems = [
        "init_from.weights: head.weight is [3, 6] in the file and [2, 6] in the model; add 'head' to init_from.skip",
        "init_from.weights: head.bias is [3] in the file and [2] in the model; add 'head' to init_from.skip",
        "init_from.weights: the file has extra.bias, which the model lacks; add 'extra' to init_from.skip",
    ]
    assert load_initial_weights(model, config(), {"": path}).problems == problems
    assert load_initial_weights(model, config("head", "extra"), {"": path}).problems == []
    with torch.device("meta"):
        assert load_initial_weights(Net(num_classes=2), config(), {"": path}).problems == problems
    model.load_state_dict(before)
    assert load_initial_weights(model, config("haed", "head", "extra"), {"": path}).problems == [
        "init_from.skip=['haed', 'head', 'extra']: no weight begins with 'haed'; did you mean 'head'?"
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_that_lacks_weights_or_is_damaged_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(Net().trunk.state_dict(prefix="trunk."), path)
    assert load_initial_weights(Net(), config(), {"": path}).problems[0] == (
        "init_from.weights: the file lacks head.weight, which the model has; add 'head' to init_from.skip"
    )
    path.write_bytes(path.read_bytes()[:-7])
    (problem,) = load_initial_weights(Net(), config(), {"": path}).problems
    assert problem.startswith(f"init_from.weights: {path} cannot be read (")


def test_tied_weights_are_loaded_once(tmp_path: Path) -> None:
    def tied() -> nn.ModuleList:
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        return nn.ModuleList([first, second])

    source, model = tied(), tied()
    path = tmp_path / "net.safetensors"
    save_file({name: tensor for name, tensor in source.state_dict().items() if name != "1.weight"}, path)
    assert load_initial_weights(model, config(), {"": path}).problems == []
    assert torch.equal(model[1].get_parameter("weight"), source[0].get_parameter("weight"))


def test_names_that_differ_by_a_prefix_are_reported_with_it(tmp_path: Path) -> None:
    source, model = Net(), nn.ModuleDict({"net": Net()})
    path = saved(tmp_path, source)
    first, *lists = load_initial_weights(model, config(), {"": path}).problems
    assert first == (
        "init_from.weights: 0 of the 9 weights in the file match the model's 9 in name and shape; "
        "set init_from.prefix=net, then 9 match"
    )
    assert [line.partition(": ")[2].partition(", ")[0] for line in lists] == [
        "missing in the file: net.trunk.0.weight", "unexpected in the file: head.bias",
    ]  # fmt: skip
    assert load_initial_weights(model, config(strict=False), {"": path}).problems == [first, *lists], (
        "never without a word"
    )
    loading = load_initial_weights(model, config(prefix="net"), {"": path})
    assert (len(loading.loaded), loading.random, loading.unused, loading.warning) == (9, [], [], "")
    assert loading.loaded["net.head.bias"] == "head.bias"
    assert torch.equal(model["net"].get_parameter("head.weight"), source.head.weight)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_weights_load_into_a_wrapper_however_they_were_saved(is_wrapped: bool, tmp_path: Path) -> None:
    source, model = Net(), LogitsOf(Net())
    path = saved(tmp_path, LogitsOf(source) if is_wrapped else source)
    assert load_initial_weights(model, config(), {"": path}).problems == []
    assert torch.equal(model.model.get_parameter("head.weight"), source.head.weight)


def test_weights_without_a_partner_are_listed_if_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({**Net().trunk.state_dict(prefix="trunk."), "pooler.bias": torch.zeros(2)}, path)
    loading = load_initial_weights(Net(), config(strict=False), {"": path})
    assert (loading.random, loading.unused) == (["head.weight", "head.bias"], ["pooler.bias"])
    assert loading.warning == (
        "init_from.strict=false: 2 weights of the model stay random: head.weight, head.bias; "
        "1 weights of the files are unused: pooler.bias"
    )
    (problem,) = load_initial_weights(Net(), config("trunk", "head", "pooler"), {"": path}).problems
    assert problem.startswith(
        "init_from.weights: none of the 8 weights in the file would be loaded into the model's 9;"
    )


def test_frozen_weights_and_batch_statistics_do_not_change() -> None:
    model = Net().train()
    assert load_initial_weights(model, config(weights=None, freeze=("trunk",)), {}).problems == []
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    inputs = torch.randn(5, 4) * 3 + 1
    outputs = model(inputs)
    assert torch.equal(outputs, model.train()(inputs)), "no dropout, no statistics of a batch"
    assert torch.equal(outputs, model.eval()(inputs))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.trunk.state_dict().items())


def test_frozen_parts_must_exist_and_leave_something_to_train() -> None:
    (problem,) = load_initial_weights(Net(), config(weights=None, freeze=("trnk",)), {}).problems
    assert problem == "freeze=['trnk']: no weight of Net begins with 'trnk'; did you mean 'trunk' or 'trunk.1'?"
    (problem,) = load_initial_weights(Net(), config(weights=None, freeze=("trunk", "head")), {}).problems
    assert problem == "freeze=['trunk', 'head'] leaves nothing to train in Net; remove its last entry"
    assert has_prefix("head.3.bias", ["head"])
    assert not has_prefix("head_2.bias", ["head"])


def test_the_id_without_initial_weights_is_unchanged() -> None:
    plain = compose(MLP).config
    old = {key: value for key, value in plain.items() if key not in ("init_from", "freeze")}
    assert trial_id(plain) == trial_id(old)
    started = compose([*MLP, "init_from.weights=a"]).config
    assert trial_id(started) == trial_id({**started, "init_from": {"weights": "a", "skip": []}})
    assert trial_id(started) != trial_id(compose([*MLP, "init_from.weights=a", "init_from.prefix=b"]).config)
    assert len({trial_id(plain), trial_id(started), trial_id(compose([*MLP, "freeze=[stack.1]"]).config)}) == 3


def test_weights_are_named_by_run_or_by_safetensors_file(tmp_path: Path) -> None:
    def nowhere(run: str) -> Path:
        raise InputError([f"there is no run '{run}'"])

    path = saved(tmp_path, Net())
    assert find_weights(str(path), nowhere) == path
    (tmp_path / "net.pt").touch()
    for named, problems in {
        f"{tmp_path}/net.pt": r"net\.pt does not end in \.safetensors; files in other formats can run code",
        f"{tmp_path}/other.safetensors": "there is no such file; name a run, or a file that is there",
        "abc": "init_from.weights=abc: there is no run 'abc'",
    }.items():
        with pytest.raises(InputError, match=problems):
            find_weights(named, nowhere)
    with pytest.raises(InputError, match="has no complete checkpoint; name another run"):
        find_weights("abc", lambda run: tmp_path)


@pytest.mark.slow
def test_a_run_starts_from_another_run_and_keeps_a_copy_of_the_weights(lathe: Lathe, tmp_path: Path) -> None:
    runs, here = tmp_path / "runs" / "single", f"runs_dir={tmp_path}/runs"
    assert lathe("run", *MLP, *SHORT, here).returncode == 0
    (first,) = runs.iterdir()
    overrides = (f"init_from.weights={first.name}", "init_from.skip=[stack.7]", "freeze=[stack.1]", "optimizer.lr=0.1")
    assert lathe("run", *MLP, *SHORT, *overrides, here).returncode == 0
    (second,) = (folder for folder in runs.iterdir() if folder != first)
    source, end = (_weights(folder) for folder in (first, second))
    assert torch.equal(end["stack.1.weight"], source["stack.1.weight"])
    assert not torch.equal(end["stack.4.weight"], source["stack.4.weight"])
    assert (end["stack.4.weight"] - source["stack.4.weight"]).abs().max() < 1
    provenance = Trial(second).provenance["initial"]
    assert provenance["file"].startswith(str(first / "checkpoints"))
    assert re.fullmatch("[0-9a-f]{64}", provenance["sha256"])
    assert (second / FILE).read_bytes() == Path(provenance["file"]).read_bytes()


def _weights(run: Path) -> dict[str, Tensor]:
    return load_file(find_weights(run.name, lambda name: find_trial(name, run.parent.parent).folder))


def test_a_mismatch_is_reported_before_anything_is_frozen(tmp_path: Path) -> None:
    path = tmp_path / "mlp.safetensors"
    save_file(assemble(compose(MLP).config).setup.model.state_dict(), path)
    wrong = compose([*MLP, "model.hidden_sizes=[6,4]", f"init_from.weights={path}", "freeze=[stack.2]"]).config
    with pytest.raises(PlanError, match="has 4 problems") as caught:
        check_fit(wrong, make_plan(wrong), initial={"": path})
    assert "stack.4.weight is [5, 6] in the file and [4, 6] in the model; add 'stack.4' to" in caught.value.problems[1]
    missing = compose([*MLP, f"init_from.weights={tmp_path}/no.safetensors", f"runs_dir={tmp_path}/runs"])
    with pytest.raises(InputError, match="there is no such file"):
        freeze(missing)
    assert not list((tmp_path / "runs" / "single").glob("*/"))


def test_each_part_of_a_model_has_its_own_weights(tmp_path: Path) -> None:
    first, second, both = Net(), Net(), nn.ModuleDict({"first": Net(), "second": Net()})
    files = {"first": saved(tmp_path / "a", first), "second": saved(tmp_path / "b", second)}
    named = {part: str(file) for part, file in files.items()}
    assert load_initial_weights(both, config(weights=named), files).problems == []
    for part, net in (("first", first), ("second", second)):
        assert all(torch.equal(both[part].state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    run = tmp_path / "run"
    run.mkdir()
    provenance = {"initial": copy_weights(named, lambda name: tmp_path, run)}
    check_copy(run, provenance)
    assert list_sources(provenance) == [*named.values()]
    again = nn.ModuleDict({"first": Net(), "second": Net()})
    assert load_initial_weights(again, config(weights=named), {"": run / FILE}).problems == []
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in both.state_dict().items())
    with pytest.raises(InputError, match=r"init_from\.weights\.second=.*no\.safetensors: there is no such file"):
        copy_weights({**named, "second": f"{tmp_path}/no.safetensors"}, lambda name: tmp_path, tmp_path / "b")
    del files["second"]
    problems = load_initial_weights(both, config(weights=named), files).problems
    assert (
        "the file lacks second.trunk.0.weight, which the model has; add 'second.trunk.0' to init_from.skip"
        in problems[0]
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("init_from.weights={reader: 5}", "init_from.weights.reader=5 is not text"),
        ("init_from.weights=[a, b]", r"init_from.weights=\[a, b\] is not text or a map or null"),
    ],
)
def test_weights_of_another_kind_are_refused(override: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        compose([*MLP, override])
