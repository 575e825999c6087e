"""The configuration of a run with other values: `lathe run --from RUN key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.runs_dir import choose_runs_dir
from experiments.trial.lookup import SHARED, find_run
from experiments.trial.own_runs import describe_foreign
from experiments.trial.resume import get_key
from experiments.trial.trial import Trial, trial_id

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

TRIAL_FILE = "trial.yaml"


def find_named_run(name: str) -> Trial | None:
    """Find the run whose configuration `--from` names, by id, folder or `trial.yaml`; None if it names a shared file.

    Raises:
        InputError: there is no such run, or it is another user's.
    """
    path = user_path(name, "--from")
    if path.name != TRIAL_FILE and (path.is_file() or name.endswith(SHARED)):
        return None
    trial = find_run(str(path.parent) if path.name == TRIAL_FILE else name, choose_runs_dir())
    if (reason := describe_foreign(trial.folder, choose_runs_dir())) is not None:
        raise InputError(
            [f"--from {name}: {trial.folder} {reason}; start from a file that its owner wrote with `lathe share`"]
        )
    return trial


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
            before = [override for override in earlier if not f"{get_key(override)}.".startswith(replaced)]
            return compose([*before, *overrides], config_dirs=dirs, trust=trust)
    return change(trial.config, overrides, trial.id, config_dirs=dirs, trust=trust)
