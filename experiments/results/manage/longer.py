"""`lathe resume RUN max_steps=600`: a child run that trains longer, from the last checkpoint of a run that stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.launch.own_launcher import uses_scheduler
from experiments.plan.plan import Plan, make_plan
from experiments.results.manage.copy_run import copy_run_until
from experiments.results.manage.facts import RunFacts, read_facts
from experiments.run.checkpoint import Checkpoint, Checkpoints
from experiments.trial.initial_weights import FILE, link_or_copy
from experiments.trial.lookup import read_mlflow_ids
from experiments.trial.parameters import flatten_config
from experiments.trial.resume import CHANGEABLE, get_key, recompose
from experiments.trial.trial import (
    EXCLUDED,
    Trial,
    create_run_folder,
    find_code_changes,
    make_provenance,
    trial_id,
    write_trial,
)

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

LENGTHS = ("max_steps", "max_epochs")
"""Keys that make a resume train longer, in a child run. One of them is set, and the other is null."""
MOST_COMPARED = 10_000
"""Steps at which two schedules are compared; of a longer training so many in equal distances."""


def trains_longer(overrides: Sequence[str]) -> bool:
    """Whether the overrides of a resume change the length of the training."""
    return any(get_key(override) in LENGTHS for override in overrides)


def make_child(parent: Trial, overrides: Sequence[str], trust: Sequence[str]) -> Trial:
    """Create a run that continues another one, with more steps.

    Its folder has the journals and the checkpoint of the parent, so its curves begin at the first step and its training
    continues with the weights and the state of optimizer, callbacks and data. The parent does not change.

    Returns:
        The child. Its provenance names the parent under ``continues``, and under ``differs`` why the child is not what a run of
        this length from the start would be.

    Raises:
        InputError: the parent runs, has no checkpoint, or has ended for another reason; or an override is not allowed.
    """
    facts = read_facts(parent)
    checkpoint = _find_checkpoint(parent, facts, overrides)
    experiment = _compose(parent, overrides, trust)
    plan, name = make_plan(experiment.config), parent.folder.name
    if plan.num_steps <= checkpoint.step:
        raise InputError(
            [f"{_length(overrides)} is {plan.num_steps} steps, and run '{name}' has done {checkpoint.step}; write more"]
        )
    if uses_scheduler(experiment.config):
        raise InputError([f"{_length(overrides)}: a longer run starts on this machine; add launcher=local"])
    differs = list((parent.provenance.get("continues") or {}).get("differs") or [])
    differs += _compare(parent, experiment.config, checkpoint.step, plan, facts, trusted(trust))
    differs += find_code_changes(parent, trust)
    identity = trial_id(experiment.config)
    if differs:  # not the results of that trial
        identity = hashlib.sha256(f"{identity} from {parent.id} at {checkpoint.step}".encode()).hexdigest()[:10]
    link = {
        "run": name, "run_key": parent.provenance.get("run_key"), "trial_id": parent.id, "step": checkpoint.step,
        "mlflow_run_id": read_mlflow_ids(parent).get("run_id"), "differs": differs,
    }  # fmt: skip
    with create_run_folder(parent.runs_dir, f"single/{identity}") as folder:
        copy_run_until(parent.folder, folder, checkpoint)
        provenance = {"trial_id": identity, **make_provenance(experiment, folder, parent.runs_dir), "continues": link}
        if (parent.folder / FILE).exists():
            link_or_copy(parent.folder / FILE, folder / FILE)
            provenance["initial"] = parent.provenance.get("initial") or {}
        write_trial(folder, {**experiment.config, "resume": False}, provenance)
    return Trial(folder)


def _find_checkpoint(parent: Trial, facts: RunFacts, overrides: Sequence[str]) -> Checkpoint:
    name, length = parent.folder.name, _length(overrides)
    if facts.state == "running":
        raise InputError([f"{length}: run '{name}' is still running; wait for its end, or `lathe cancel {name}`"])
    checkpoints = Checkpoints(parent.folder, keep_last=1)
    checkpoint = checkpoints.latest()
    if checkpoint is None:
        cause = "".join(f": {warning}" for warning in checkpoints.warnings)
        raise InputError(
            [
                f"{length}: run '{name}' has no complete checkpoint to go on from{cause}; start with `lathe run --from {name}`"
            ]
        )
    if facts.state == "finished" and facts.reason and facts.num_steps is not None and facts.step < facts.num_steps:
        raise InputError(
            [
                f"{length}: run '{name}' ended at step {facts.step} of {facts.num_steps}, because {facts.reason}, so more steps "
                f"change nothing; change the callback in a new run: `lathe run --from {name} ...`"
            ]
        )
    return checkpoint


def _compose(parent: Trial, overrides: Sequence[str], trust: Sequence[str]) -> Experiment:
    """The configuration of the child."""
    keys = {get_key(override) for override in overrides}
    allowed = {*LENGTHS, *CHANGEABLE}
    if wrong := sorted(key for key in keys if key not in allowed and key.partition(".")[0] not in allowed):
        known = ", ".join([*LENGTHS, *CHANGEABLE])
        raise InputError(
            [
                f"{key}: a run that trains longer changes only {known}; for another change start a new run with "
                f"`lathe run --from {parent.folder.name}`"
                for key in wrong
            ]
        )
    for key, other in zip(LENGTHS, reversed(LENGTHS), strict=True):
        if key in keys and other not in keys and parent.config.get(other) is not None:
            overrides = [*overrides, f"{other}=null"]
    experiment = recompose(parent, overrides, trust=trust)
    own = {key: parent.config.get(key) for key in ("name", "description", "tags")}
    return replace(experiment, config={**experiment.config, **own})


def _compare(
    parent: Trial, config: Mapping[str, Any], step: int, plan: Plan, facts: RunFacts, trust: tuple[str, ...]
) -> list[str]:
    """Why the child is not what a run of its length from the start would be; empty if it is the same, bit for bit."""
    return [
        *_compare_values(parent.config, config),
        *_compare_schedules(parent.config, config, step, plan, trust),
        *_compare_ends(config, step, facts),
    ]


def _compare_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Values that depend on the length, such as a reference to max_steps."""
    one, other = flatten_config(before), flatten_config(now)
    for key in sorted(one.keys() | other.keys()):
        is_free = any(key == name or key.startswith(f"{name}.") for name in (*EXCLUDED, *CHANGEABLE, *LENGTHS))
        if not is_free and one.get(key) != other.get(key):
            yield f"{key} was {one.get(key, 'not set')} in the first steps and is {other.get(key, 'not set')} now"


def _compare_schedules(
    before: Mapping[str, Any], now: Mapping[str, Any], step: int, plan: Plan, trust: tuple[str, ...]
) -> Iterator[str]:
    """Whether the learning rate of a done step depends on the number of steps."""
    first, second = (instantiate(dict(config["schedule"]), "schedule", trust) for config in (before, now))
    length = make_plan(dict(before)).num_steps
    for done in range(0, step, max(1, step // MOST_COMPARED)):
        if first.factor(done, length) != second.factor(done, plan.num_steps):
            name = str(now["schedule"]["_target_"]).rpartition(".")[2]
            yield (
                f"the schedule {name} depends on the number of steps: the first {step} steps had the learning rates of a "
                f"training of {length} steps"
            )
            return


def _compare_ends(config: Mapping[str, Any], step: int, facts: RunFacts) -> Iterator[str]:
    """Whether the last step of the parent was logged or evaluated only because it was the last one."""
    if step == facts.num_steps:
        for key, action in (("log_every_steps", "logged"), ("eval_every_steps", "evaluated")):
            if config[key] and step % config[key]:
                yield f"step {step} was {action} because it was the last one; it is no multiple of {key}={config[key]}"


def _length(overrides: Sequence[str]) -> str:
    return next(override for override in overrides if get_key(override) in LENGTHS)
