"""Attaches an adapter to a model: its new parameters are trained, and the weights from files are not, nor are they saved."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from experiments.components.instantiate import describe_error, instantiate
from experiments.components.load_weights import Loading, has_prefix, load_initial_weights
from experiments.config.rules.adapter import find_adapter
from experiments.core.errors import InputError
from experiments.trial.initial_weights import FILE
from experiments.trial.trial import Trial
from modules.adapter.base import Adapter
from modules.parallel.checkpoint_format import describe_tensors, leave_out, name_tensors, write_tensors


def attach(model: nn.Module, adapter: Adapter, config: Mapping[str, Any], loading: Loading) -> list[str]:
    """Attach the adapter of a configuration to a model that has its initial weights; returns problems.

    Args:
        model: its weights that the files have are frozen and left out of checkpoints; the others are trained.
        adapter: a new one.
        config: of a trial.
        loading: what the files had; without any loaded weight, `init_from.skip` says what they lack.
    """
    if find_adapter(config) is None:
        return []
    parameters = dict(model.named_parameters())
    skip = config["init_from"]["skip"]
    new = {name for name in parameters if (name in loading.random if loading.loaded else has_prefix(name, skip))}
    base = {id(parameter) for name, parameter in parameters.items() if name not in new}
    frozen = {id(parameter) for parameter in parameters.values() if not parameter.requires_grad}  # by `freeze`
    try:
        adapter.attach(model, frozenset(new))
    except Exception as err:  # a user's adapter may raise anything
        return [f"adapter: {describe_error(err)}"]
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in base | frozen)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in base}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return [
            f"adapter={config['adapter']['_target_']} adds no parameter to {type(model).__name__}; correct its attach()"
        ]
    leave_out(model, names)
    return []


@contextmanager
def whole_weights(trial: Trial, weights: Path, trust: Collection[str]) -> Iterator[Path]:
    """The file with all weights that a checkpoint stands for: its own, or a temporary one in which the adapter is merged.

    Args:
        trial: the run.
        weights: of a checkpoint of the run.
        trust: packages, besides the built-in ones, that the run may name.

    Raises:
        InputError: a file cannot be read, or does not fit the code.
    """
    if find_adapter(trial.config) is None:
        yield weights
        return
    model, adapter = load_adapted(trial, weights, trust)
    adapter.merge(model)
    with tempfile.TemporaryDirectory(prefix="lathe-merged-") as scratch:
        file = Path(scratch, weights.name)
        write_tensors(file, name_tensors(model, whole=True))
        del model
        yield file


def load_adapted(trial: Trial, weights: Path, trust: Collection[str]) -> tuple[nn.Module, Adapter]:
    """Build the model of a run with its trained adapter, which is not merged; arguments and errors of `whole_weights`."""
    config = trial.config
    with torch.random.fork_rng(devices=[]):  # the random initial weights are replaced below
        model: nn.Module = instantiate(config["model"], "model", trust)
        adapter: Adapter = instantiate(config["adapter"], "adapter", trust)
        loading = load_initial_weights(model, {**config, "freeze": []}, {"": trial.folder / FILE})
        if problems := loading.problems or attach(model, adapter, config, loading):
            raise InputError(problems, f"the model of '{config['name']}'")
    try:
        saved = load_file(weights)
    except (SafetensorError, OSError) as err:
        raise InputError([f"{weights} cannot be read: {err}; use an earlier checkpoint"]) from err
    own = name_tensors(model)
    if describe_tensors(saved) != describe_tensors(own):
        raise InputError(
            [
                f"{weights} does not have the weights of the adapter; use the code of the run, which provenance.yaml names"
            ]
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    return model, adapter
