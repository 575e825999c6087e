"""The evaluations of a run that `lathe evaluate` made: folders beside its attempts, which no replay of the run reads.

``evaluations/1/`` has the files of a run that trains nothing. Its journal holds metrics such as
``evaluation/1/test/accuracy_top1``, at the step of the checkpoint that was evaluated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.core.files.read_file import DamagedFileError
from experiments.run import journal
from experiments.run.state import read_outcome

FOLDER = "evaluations"
PREFIX = "evaluation/"
"""Of the names of their metrics: ``evaluation/NAME/SPLIT/METRIC``."""


def list_folders(run_folder: Path) -> list[Path]:
    """The folders of the evaluations of a run, first to last, also of those that failed."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # none yet
        names = [name for name in os.listdir(run_folder / FOLDER) if name.isdecimal()]
    return [run_folder / FOLDER / name for name in sorted(names, key=int)]


def list_finished(run_folder: Path) -> list[Path]:
    """The folders of the finished evaluations of a run, first to last; the others do not count."""
    return [folder for folder in list_folders(run_folder) if _is_finished(folder)]


def read_points(folder: Path) -> list[journal.MetricsEvent]:
    """The metrics of an evaluation, under their own names only."""
    points = [event for event in journal.replay(folder) if event["event"] == "metrics"]
    return [point for point in points if all(name.startswith(PREFIX) for name in point["metrics"])]


def read_params(folder: Path) -> dict[str, journal.Scalar]:
    """What was evaluated, by the key of a parameter."""
    params: dict[str, journal.Scalar] = {}
    for event in journal.replay(folder):
        if event["event"] == "params":
            params |= event["params"]
    return params


def read_artifacts(folder: Path) -> Sequence[str]:
    """The files that an evaluation has made, relative to the folder of the run."""
    paths = [event["path"] for event in journal.replay(folder) if event["event"] == "artifact"]
    return [f"{FOLDER}/{folder.name}/{path}" for path in paths]


def _is_finished(folder: Path) -> bool:
    try:
        outcome = read_outcome(folder)
    except DamagedFileError:
        return False
    return outcome is not None and outcome["status"] == "finished"
