"""The folder of an evaluation of a run: a trial of its own that trains nothing, with the weights of a checkpoint."""

from __future__ import annotations

import itertools
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.core.atomic import write_text
from experiments.core.errors import InputError
from experiments.run import evaluations
from experiments.run.checkpoint import Checkpoint
from experiments.trial.initial_weights import FILE, link_or_copy
from experiments.trial.trial import Trial, to_yaml

NOT_INHERITED = ("reproduces", "sweep", "warnings", "evaluates")
"""Parts of the provenance that are about the run, not about what is evaluated."""


def create_evaluation(
    trial: Trial, config: dict[str, Any], checkpoint: Checkpoint, weights: Path, evaluates: dict[str, Any]
) -> Trial:
    """Create the folder of an evaluation in that of its run.

    Args:
        trial: the run.
        config: of the evaluation.
        checkpoint: whose weights are evaluated.
        weights: the file that has all of them.
        evaluates: for `Trial.evaluates`; its name is None if the number of the evaluation is the name.

    Raises:
        InputError: it cannot be written.
    """
    folder: Path | None = None
    try:
        folder = _make_folder(trial.folder)
        own = {"run_key": uuid.uuid4().hex, "created": time.time()}
        provenance = {key: value for key, value in trial.provenance.items() if key not in NOT_INHERITED}
        link_or_copy(weights, folder / FILE)
        evaluates = {**evaluates, "name": evaluates["name"] or folder.name, "step": checkpoint.step}
        write_text(folder / "provenance.yaml", to_yaml({**provenance, **own, "evaluates": evaluates}))
        config = {**config, "init_from": {"weights": str(checkpoint.weights), "skip": []}}
        write_text(folder / "trial.yaml", to_yaml(config))
    except OSError as err:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            [
                f"{trial.folder / evaluations.FOLDER} cannot be written: {err.strerror}; make the run folder writable and free "
                "space, or evaluate a copy of it"
            ]
        ) from err
    return Trial(folder)


def check_name(trial: Trial, name: str, overrides: Sequence[str]) -> None:
    """Check that a name stands for one kind of evaluation in a run: its values at several steps are one curve.

    Raises:
        InputError: an earlier evaluation of this name had other overrides.
    """
    for folder in evaluations.list_finished(trial.folder):
        before = Trial(folder).evaluates or {}
        if before.get("name") == name and before.get("overrides") != list(overrides):
            known = " ".join(before["overrides"]) or "none"
            raise InputError(
                [
                    f"--name {name}: an earlier evaluation of this name has other overrides ({known}); choose another name"
                ]
            )


def _make_folder(run_folder: Path) -> Path:
    """Make the folder with the next free number."""
    (run_folder / evaluations.FOLDER).mkdir(exist_ok=True)
    known = evaluations.list_folders(run_folder)
    for number in itertools.count(int(known[-1].name) + 1 if known else 1):
        folder = run_folder / evaluations.FOLDER / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # another evaluation was started at the same time
            continue
        return folder
    raise AssertionError("unreachable")
