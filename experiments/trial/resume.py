"""Changes of a run: of a resume, where and how it trains, never what it computes; and of a new run that starts from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError
from experiments.trial.trial import Trial, trial_id

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

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
            f"{key}: a resume changes only {', '.join(CHANGEABLE)}, and max_steps or max_epochs, which train longer; "
            f"start a new run with `lathe run --from {trial.folder.name}`"
            for key in fixed
        ]
        raise InputError(problems, f"the resume of '{trial.folder.name}'")
    composed = recompose(trial, overrides, trust=trust).config
    if is_auto(composed):
        raise InputError(
            ["parallel=auto is chosen before a run is frozen; name the layout that `lathe plan` shows for it"]
        )
    changes = {root: composed[root] for root in dict.fromkeys(roots)}
    if "data_root" in changes and "root" in trial.config["data"]:
        changes["data"] = {**trial.config["data"], "root": composed["data_root"]}
    return changes


def recompose(
    trial: Trial, overrides: Sequence[str], *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> Experiment:
    """Compose the experiment of a run with further overrides.

    It is composed as the run was, so that values that refer to others follow them, such as a model's number of classes. If
    that no longer gives the run, as a file has changed, its stored values are changed, and other data cannot be chosen.

    Raises:
        InputError: lists every problem.
    """
    from experiments.config.compose import change, compose

    provenance = trial.provenance
    dirs, earlier = list(dict.fromkeys([*provenance["config_dirs"], *map(str, config_dirs)])), provenance["overrides"]
    if not provenance.get("source"):
        try:
            same = compose(earlier, config_dirs=dirs, trust=trust).config
        except InputError:  # a file of its configuration has changed
            same = None
        if same is not None and trial_id(same) == trial_id(trial.config):
            replaced = tuple(f"{get_key(override)}." for override in overrides)
            if "parallel." in replaced:
                replaced += ("batch_size_per_device.",)  # it fitted the earlier topology
            before = [override for override in earlier if not f"{get_key(override)}.".startswith(replaced)]
            return compose([*before, *overrides], config_dirs=dirs, trust=trust)
    return change(trial.config, overrides, trial.id, config_dirs=dirs, trust=trust)


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
