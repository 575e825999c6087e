"""Finds the run that a user names by folder, id, prefix or MLflow id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.core.runs_dir import choose_runs_dir
from experiments.trial.trial import Trial, find_trial

MLFLOW_ID = re.compile(r"[0-9a-f]{6,32}")


SHARED = (".yaml", ".yml", ".tar.gz", ".tgz")


def find_run(name: str, runs_dir: Path) -> Trial:
    """Find a run by its folder, its id, the beginning of its id, or its MLflow id.

    Raises:
        InputError: no run has this name, or more than one.
    """
    try:
        return check_readable(find_trial(name, runs_dir))
    except InputError as err:
        if name.endswith(SHARED) and not user_path(name).exists():
            raise InputError([f"there is no file {name}; name a file that `lathe share` wrote, or a run"]) from err
        if not MLFLOW_ID.fullmatch(name):
            raise
        folders = {folder for run_id, folder in _mlflow_runs(runs_dir) if run_id.startswith(name)}
        if not folders:
            raise
        if len(folders) > 1:
            names = ", ".join(sorted(folder.name for folder in folders))
            raise InputError(
                [f"MLflow's run '{name}' is not unique in {runs_dir}: {names}; write more of it"]
            ) from None
        return check_readable(Trial(folders.pop().resolve()))


def check_runs_dir(runs_dir: Path) -> None:
    """Check that the folder of all runs is there. The default folder may be missing: the first run makes it.

    Raises:
        InputError: it is missing, or it is a file.
    """
    if runs_dir.is_dir() or (not runs_dir.exists() and runs_dir == choose_runs_dir()):
        return
    problem = "is a file, not a folder with runs" if runs_dir.exists() else "is not there"
    raise InputError(
        [f"runs_dir={runs_dir} {problem}; start a run, or set --runs-dir or LATHE_RUNS to the folder of your runs"]
    )


def check_readable(trial: Trial) -> Trial:
    """Return the run if its files can be read.

    Raises:
        DamagedFileError: a file is damaged.
    """
    for key in ("name", "data._target_", "hardware.nodes"):
        section, _, name = key.rpartition(".")
        if name not in (trial.config.get(section, {}) if section else trial.config):
            raise DamagedFileError(trial.folder / "trial.yaml", f"'{key}' is missing")
    if "trial_id" not in trial.provenance:
        raise DamagedFileError(trial.folder / "provenance.yaml", "'trial_id' is missing")
    return trial


def _mlflow_runs(runs_dir: Path) -> Iterator[tuple[str, Path]]:
    """MLflow id and folder of every run that was synced."""
    for path in runs_dir.glob("*/*/sync.json"):
        if (path.parent / "trial.yaml").is_file():
            yield read_mlflow_ids(Trial(path.parent)).get("run_id", ""), path.parent


def read_mlflow_ids(trial: Trial) -> dict[str, str]:
    """The run_id and experiment_id of a run in MLflow; empty if it was never synced."""
    try:
        synced = read_json_map(trial.folder / "sync.json")
    except DamagedFileError:
        return {}
    return {key: str(synced[key]) for key in ("run_id", "experiment_id") if synced.get(key)}
