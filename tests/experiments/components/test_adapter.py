"""Adapters: what is trained, what checkpoints hold, and the merged model. With an adapter that needs no library."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.api import load_model
from experiments.components.adapter import load_adapted
from experiments.components.assemble import assemble
from experiments.components.instantiate import instantiate
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.errors import InputError, PlanError
from experiments.launch.run_trial import run
from experiments.plan.estimate import estimate
from experiments.plan.plan import make_plan
from experiments.results.evaluate.evaluate import choose_checkpoint
from experiments.results.export.export import export
from experiments.run.checkpoint import Checkpoints
from experiments.trial.initial_weights import find_weights
from experiments.trial.trial import Trial, freeze
from modules.parallel.checkpoint_format import name_tensors

TRUST = ("tests",)
SMALL = (
    "model=mlp", "model.hidden_sizes=[5]", "tracking=off", "hardware.device=cpu", "max_steps=4", "eval_every_steps=2",
    "checkpoint.every_steps=2", "checkpoint.keep_last=2", "batch_size_global=8",
)  # fmt: skip
TRAINED = {"stack.1.shift", "stack.4.weight", "stack.4.bias"}
"""With a new head."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model with other classes."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    torch.manual_seed(1)
    model = instantiate(compose(SMALL).config["model"], "model")
    save_file({name: tensor for name, tensor in model.state_dict().items() if "stack.4" not in name}, path)
    return path


def compose_experiment(base: Path, *overrides: str) -> Experiment:
    words = (f"init_from.weights={base}", "init_from.skip=[stack.4]", *overrides)
    return compose([*SMALL, "adapter._target_=tests.support.own_adapter.Shifts", *words], trust=TRUST)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    experiment = compose_experiment(base, f"runs_dir={tmp_path_factory.mktemp('runs')}", "callback=ema")
    result = run(freeze(experiment), trust=TRUST, here=True)
    assert result.status == "finished", result.reason
    return result.trial


def test_only_the_adapter_and_what_the_files_lack_is_trained_and_saved(trained: Trial) -> None:
    for step in (2, 4):
        for name in ("model", "delivered"):
            file = Checkpoints(trained.folder, 1).locate(step) / f"{name}.safetensors"
            assert {*load_file(file)} == TRAINED
        states = load_file(file.with_name("optimizer.safetensors"))
        assert {name.rpartition(".")[0] for name in states} == TRAINED
    assert len(trained.provenance["initial"]["sha256"]) == 64


def test_the_merged_model_computes_the_same(trained: Trial, tmp_path: Path) -> None:
    checkpoint, _ = choose_checkpoint(trained, None)
    adapted, _ = load_adapted(trained, checkpoint.weights, TRUST)
    inputs = torch.rand(3, 1, 8, 8)
    merged = load_model(trained, trust=TRUST, device="cpu")
    assert {*merged.state_dict()} == {"stack.1.weight", "stack.1.bias", "stack.4.weight", "stack.4.bias"}
    torch.testing.assert_close(merged(inputs), adapted.eval()(inputs))
    args = argparse.Namespace(
        run=str(trained.folder), output=str(tmp_path / "out"), register_as=None, no_preprocessing=False, trust=TRUST,
        trust_code=True, runs_dir=str(trained.runs_dir), adapter=False,
    )  # fmt: skip
    assert export(args) == 0
    exported = load_file(tmp_path / "out/data/model/model.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in merged.state_dict().items())
    args.adapter, args.output = True, str(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"Shifts has no method save\(\)"):
        export(args)


def test_a_resumed_run_ends_with_the_same_weights(trained: Trial, tmp_path: Path) -> None:
    copy = Trial(tmp_path / "single" / trained.folder.name)
    shutil.copytree(trained.folder, copy.folder)
    shutil.rmtree(Checkpoints(copy.folder, 1).locate(4))
    (copy.folder / "outcome.json").unlink()
    (copy.folder / "checkpoints/best.json").unlink()
    assert run(copy, trust=TRUST, here=True).status == "finished"
    for name in ("model", "delivered", "optimizer"):
        file = f"checkpoints/step_00000004/{name}.safetensors"
        assert (copy.folder / file).read_bytes() == (trained.folder / file).read_bytes()


def test_a_plan_counts_gradients_and_optimizer_state_of_the_adapter_alone(base: Path) -> None:
    config = compose_experiment(base).config
    plan = estimate(config, make_plan(config), TRUST)
    assert (plan.num_parameters, plan.num_trained) == (385 + 5, 5 + 60)
    assert plan.fullest.gradients_bytes == 4 * plan.num_trained


def test_without_the_new_head_no_weight_of_the_model_is_trained(base: Path, tmp_path: Path) -> None:
    config, whole = compose_experiment(base, "init_from.skip=[]").config, tmp_path / "whole.safetensors"
    save_file(instantiate(config["model"], "model").state_dict(), whole)
    model = assemble(config, TRUST, whole).setup.model
    assert {*name_tensors(model)} == {"stack.1.shift"}
    assert len(name_tensors(model, whole=True)) == 5


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["init_from.weights=null"], "leaves the weights of the model as they are, and they are random"),
        (
            ["parallel=pipeline", "hardware.devices_per_node=2"],
            "does not work with parallel=modules.parallel.deepspeed_pip",
        ),
        (["parallel=auto", "hardware.devices_per_node=2"], "does not work with parallel=modules.parallel.auto.Auto"),
        (
            ["parallel=async", "hardware.devices_per_node=2"],
            "does not work with parallel=modules.parallel.parameter_serv",
        ),
        (
            ["parallel=model", "hardware.devices_per_node=2"],
            "does not work with",
        ),
    ],
)
def test_what_an_adapter_does_not_work_with_is_refused(base: Path, overrides: list[str], problem: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(compose_experiment(base, *overrides).config)
    assert problem in "\n".join(caught.value.problems)


def test_a_layer_that_the_adapter_does_not_find_is_reported(base: Path) -> None:
    config = compose_experiment(base, "+adapter.layer=2").config
    with pytest.raises(PlanError) as caught:
        estimate(config, make_plan(config), TRUST)
    assert caught.value.problems == ["adapter: Shifts wants a linear layer, but 2 is none"]


def test_the_adapter_of_a_run_is_no_whole_model(trained: Trial) -> None:
    with pytest.raises(InputError, match="hold only its adapter; write the whole model with `lathe export"):
        find_weights(str(trained.folder), lambda run: trained.folder)
