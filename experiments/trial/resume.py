"""Changes of a resume: where and how a training runs, never what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError
from experiments.trial.trial import Trial

CHANGEABLE = (
    "parallel", "hardware", "launcher", "batch_size_per_device", "batch_size_eval", "num_data_workers", "stop_timeout_s",
    "system_every_s", "profile", "notify", "data_root", "checkpoint.keep_last",
)  # fmt: skip
"""Not among them, although no update depends on them: when to log, evaluate and save, because curves and the delivered step do;
tracking, name and tags, which are those of the run and not of an attempt."""
NEUTRAL = ("num_data_workers", "stop_timeout_s", "system_every_s", "profile", "notify")
"""Those that do not count for the id of a trial, and are values of their own."""


def get_key(override: str) -> str:
    """The key or group that an override changes."""
    return override.lstrip("+~").partition("=")[0]


def _root(override: str) -> str:
    return get_key(override).partition(".")[0]


def find_changes(trial: Trial, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration with the same id as a trial that its next attempt takes over."""
    return {key: config[key] for key in NEUTRAL if key in config and config[key] != trial.config.get(key)}


def compose_changes(trial: Trial, overrides: Sequence[str], trust: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the top-level keys that overrides change for the next attempt, with their new values.

    The overrides are added to those of the trial; a newly chosen option replaces earlier overrides of its group. The
    changes apply to one attempt.

    Raises:
        InputError: an override changes another key, or the result cannot be composed.
    """
    if not overrides:
        return {}
    roots = [_root(override) for override in overrides]
    chosen = {override.partition("=")[0] for override in overrides}  # whole options, as in parallel=data
    if "parallel" in chosen:
        roots.append("batch_size_per_device")  # it fitted the earlier topology, unless it is given too
        chosen.add("batch_size_per_device")
    fixed = sorted(
        {get_key(override) for override in overrides if not {_root(override), get_key(override)} & {*CHANGEABLE}}
    )
    if fixed:
        problems = [
            f"{key}: a resume changes only {', '.join(CHANGEABLE)}; start a new run with `lathe run`" for key in fixed
        ]
        raise InputError(problems, f"the resume of '{trial.folder.name}'")
    from experiments.config.compose import change, compose

    provenance = trial.provenance
    dirs = provenance["config_dirs"]
    if provenance.get("source"):
        composed = change(trial.config, overrides, trial.id, config_dirs=dirs, trust=trust).config
    else:
        before = [override for override in provenance["overrides"] if _root(override) not in chosen]
        composed = compose([*before, *overrides], config_dirs=dirs, trust=trust).config
    if is_auto(composed):
        raise InputError(
            ["parallel=auto is chosen before a run is frozen; name the layout that `lathe plan` shows for it"]
        )
    changes = {root: composed[root] for root in dict.fromkeys(roots)}
    if "data_root" in changes and "root" in trial.config["data"]:
        changes["data"] = {**trial.config["data"], "root": composed["data_root"]}
    return changes


def check_repeatable(trial: Trial) -> None:
    """Check that a run from the start can give the results of a run.

    Raises:
        InputError: it continues another run, and its first steps had other settings.
    """
    link = trial.provenance.get("continues") or {}
    if differs := link.get("differs"):
        raise InputError(
            [
                f"run '{trial.folder.name}' cannot be repeated from the start, as it continues another run: {differs[0]}; name "
                f"that run, '{link.get('run')}'"
            ]
        )
