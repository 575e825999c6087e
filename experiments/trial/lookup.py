"""The run that a user names: folder, id, prefix, MLflow id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.core.errors import InputError
from experiments.trial.trial import Trial, find_trial

MLFLOW_ID = re.compile(r"[0-9a-f]{6,32}")


SHARED = (".yaml", ".yml", ".tar.gz", ".tgz")


def find_run(word: str, runs_dir: Path) -> Trial:
    """The run that a user names by folder, by id or the id's beginning, or by the id that MLflow gave it.

    Raises:
        InputError: no run, or more than one, is so named.
    """
    try:
        return check_readable(find_trial(word, runs_dir))
    except InputError as err:
        if word.endswith(SHARED) and not Path(word).expanduser().exists():
            raise InputError([f"there is no file {word}; name one that `lathe share` wrote, or a run"]) from err
        if not MLFLOW_ID.fullmatch(word):
            raise
        found = {folder for run_id, folder in _mlflow_runs(runs_dir) if run_id.startswith(word)}
        if not found:
            raise
        if len(found) > 1:
            names = ", ".join(sorted(folder.name for folder in found))
            raise InputError(
                [f"MLflow's run '{word}' is not unique in {runs_dir}: {names}; write more of it"]
            ) from None
        return check_readable(Trial(found.pop().resolve()))


def check_readable(trial: Trial) -> Trial:
    """A run whose files can be read.

    Raises:
        InputError: they cannot; other hands have been at them.
    """
    try:
        needed = (trial.provenance["trial_id"], trial.config["data"]["_target_"], trial.config["hardware"]["nodes"])
        assert all(needed), needed
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AssertionError) as err:
        reason = f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"
        raise InputError([f"the run in {trial.folder} is damaged ({reason}); restore its files"]) from err
    return trial


def _mlflow_runs(runs_dir: Path) -> Iterator[tuple[str, Path]]:
    """MLflow's id and the folder of every run that is in a store."""
    for path in runs_dir.glob("*/*/sync.json"):
        if (path.parent / "trial.yaml").is_file():
            yield read_mlflow_ids(Trial(path.parent)).get("run_id", ""), path.parent


def read_mlflow_ids(trial: Trial) -> dict[str, str]:
    """The run_id and experiment_id that MLflow knows a run by; none where it is in no store."""
    try:
        told: dict[str, Any] = json.loads((trial.folder / "sync.json").read_text())
        return {key: str(told[key]) for key in ("run_id", "experiment_id") if told.get(key)}
    except (OSError, ValueError, AttributeError):
        return {}
