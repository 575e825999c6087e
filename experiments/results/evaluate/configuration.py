"""The configuration of an evaluation: that of the run, with other data or another evaluator, and without the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from experiments.config.rules.adapter import NO_ADAPTER
from experiments.config.rules.topology import is_auto
from experiments.config.schema import ExperimentSchema
from experiments.core.errors import InputError, did_you_mean
from experiments.launch.async_supervisor import is_supervised
from experiments.launch.own_launcher import LOCAL_LAUNCHER
from experiments.trial.trial import Trial

CHANGEABLE = (
    "data", "data_root", "evaluation_sets", "evaluator", "objective", "task", "parallel", "hardware", "batch_size_eval",
    "num_data_workers", "precision", "compile", "channels_last", "determinism", "stop_timeout_s",
)  # fmt: skip
"""Keys of the root that leave the model what it is."""
ONE_DEVICE = ("parallel=single", "hardware.nodes=1", "hardware.devices_per_node=1")
SIZES = {"num_classes": "classes", "vocab_size": "tokens"}
"""Keys of data that say how many different targets or tokens a model has to know."""


def compose_evaluation(
    trial: Trial, overrides: Sequence[str], config_dirs: Sequence[str], trust: Sequence[str]
) -> dict[str, Any]:
    """Compose the configuration of an evaluation. Without `parallel=...` it uses one device, however the run was trained.

    Raises:
        InputError: an override would change the model or the training, or the result cannot be composed.
    """
    roots = [_find_root(override) for override in overrides]
    if problems := _find_faults(dict.fromkeys(roots)):
        raise InputError(problems, f"the evaluation of '{trial.folder.name}'")
    from experiments.config.compose import change

    layout = () if "parallel" in roots else ONE_DEVICE
    dirs = [*trial.provenance["config_dirs"], *config_dirs]
    composed = change(
        trial.config, [*layout, *overrides], trial.id, config_dirs=dirs, trust=trust, keeps_model=True
    ).config
    if is_auto(composed) or is_supervised(composed):
        raise InputError(
            [f"parallel={composed['parallel']['_target_']} is for a training; use parallel=single or parallel=data"],
            f"the evaluation of '{trial.folder.name}'",
        )
    if problems := _find_larger_sizes(trial.config["data"], composed["data"]):
        raise InputError(problems, f"the evaluation of '{trial.folder.name}'")
    return _without_training(composed)


def _find_root(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0].partition("/")[0]


def _find_faults(roots: Iterable[str]) -> list[str]:
    known = {field.name for field in fields(ExperimentSchema)} | {"experiment"}
    fixed = [root for root in roots if root in known - {*CHANGEABLE}]
    problems = [
        f"{root} is not a key of the configuration; {did_you_mean(root, CHANGEABLE)}"
        for root in roots
        if root not in known
    ]
    if fixed:
        problems.append(
            f"{', '.join(fixed)}: an evaluation keeps the model and its training as they are, and changes only "
            f"{', '.join(CHANGEABLE)}; start a new run with `lathe run`"
        )
    return problems


def _find_larger_sizes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"data.{key}={now[key]} is more than the {before[key]} {what} that the model was trained with; choose data with at most "
        f"{before[key]}"
        for key, what in SIZES.items()
        if isinstance(before.get(key), int) and isinstance(now.get(key), int) and now[key] > before[key]
    ]


def _without_training(config: dict[str, Any]) -> dict[str, Any]:
    """Take out what only a training needs: an evaluation makes no step, and writes no checkpoint."""
    hardware = config["hardware"]
    return {
        **config,
        "max_steps": 0,
        "max_epochs": None,
        "batch_size_global": hardware["nodes"] * hardware["devices_per_node"],
        "batch_size_per_device": None,
        "callback": {},
        "gradient": {},
        "freeze": [],
        "adapter": NO_ADAPTER,  # it is merged into the weights
        "init_from": {"weights": None, "skip": []},
        "checkpoint": {**config["checkpoint"], "best_metric": None},
        "profile": False,
        "fast_dev_run": False,
        "overfit_batches": None,
        "resume": False,
        "launcher": {"_target_": LOCAL_LAUNCHER},
        "tracking": {**config["tracking"], "sync": "off", "log_model": False, "register_as": None},
    }
