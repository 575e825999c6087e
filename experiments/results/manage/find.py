"""Finds what a user names: a run, a sweep, or a run that is a trial of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import DamagedFileError
from experiments.core.runs_dir import choose_runs_dir
from experiments.sweep.sweep import Sweep, find_by_full_name, find_sweep
from experiments.trial.lookup import SHARED, find_run
from experiments.trial.own_runs import describe_foreign
from experiments.trial.trial import Trial, read_name

TRIAL_FILE = "trial.yaml"


def find_run_or_sweep(name: str, runs_dir: Path, trust: Sequence[str] = ()) -> Trial | Sweep:
    """Find a run or a sweep by its full name or folder, or by the beginning of its name; a run also by its id or MLflow id.

    Raises:
        InputError: nothing has this name, or several have.
    """
    if (sweep := find_by_full_name(name, runs_dir, trust)) is not None:
        return sweep
    problems, found = list[str](), list[Trial | Sweep]()
    for find in (lambda: find_run(name, runs_dir), lambda: find_sweep(name, runs_dir, trust)):
        try:
            found.append(find())
        except DamagedFileError:
            raise
        except InputError as err:
            problems += err.problems
    if len(found) == 1 or (found and found[0].folder.name == name) or (user_path(name) / TRIAL_FILE).is_file():
        return found[0]
    if found:
        one, other = (f"{'sweep' if isinstance(each, Sweep) else 'run'} '{each.folder.name}'" for each in found)
        raise InputError([f"'{name}' can be the {one} or the {other} in {runs_dir}; write more of it"])
    unclear = [problem for problem in problems if " is not unique in " in problem]
    known = {path.parent.name for pattern in ("*/*/trial.yaml", "*/sweep.yaml") for path in runs_dir.glob(pattern)}
    known |= {shown for path in runs_dir.glob("*/*/trial.yaml") if (shown := read_name(path.parent)) is not None}
    raise InputError(unclear or [f"there is no run and no sweep '{name}' in {runs_dir}; {did_you_mean(name, known)}"])


def find_sweep_of(trial: Trial, trust: Sequence[str] = ()) -> Sweep | None:
    """The sweep that a run is a trial of; None for a single run."""
    folder = trial.folder.parent
    return Sweep(folder, tuple(trust)) if (folder / "sweep.yaml").is_file() else None


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
