"""Copies the record of a run up to a checkpoint into the folder of another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.core.atomic import write_text
from experiments.run import journal
from experiments.run.checkpoint import BEST, STATE, Checkpoint, Checkpoints, seal
from experiments.trial.initial_weights import link_or_copy

CHANGES = "changed.yaml"
AT_END = ("test/",)
"""Prefixes of the metrics that are measured once, at the end of a run."""


def copy_run_until(source: Path, target: Path, checkpoint: Checkpoint) -> None:
    """Copy the journals up to a checkpoint, that checkpoint, and the best one.

    The files of checkpoints never change, so they become hard links where the file system allows it.

    Args:
        source: folder of the run, which must not be running.
        target: folder of the new run.
        checkpoint: of the run.

    Raises:
        OSError: the target cannot be written.
    """
    for folder in journal.attempt_folders(source):
        own = target / "attempts" / folder.name
        own.mkdir(parents=True)
        lines = (
            json.dumps(event, separators=(",", ":")) for event in _select(folder / "journal.jsonl", checkpoint.step)
        )
        write_text(own / "journal.jsonl", "".join(f"{line}\n" for line in lines))
        if (folder / CHANGES).exists():
            shutil.copyfile(folder / CHANGES, own / CHANGES)
    checkpoints = Checkpoints(source, keep_last=1)
    best = checkpoints.best()
    (target / "checkpoints").mkdir()
    _copy_checkpoint(checkpoint, target)
    if best is not None and best.step <= checkpoint.step:
        if best.step < checkpoint.step:
            _copy_checkpoint(best, target)
        shutil.copyfile(checkpoints.folder / BEST, target / "checkpoints" / BEST)


def _select(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """The events of a journal up to a step, as if the attempt had been interrupted there."""
    for events, _ in journal.read_blocks(path):
        for event in events:
            # Not `based_on`, which has the sizes of the journals of the other run.
            values: dict[str, Any] = {key: value for key, value in event.items() if key != "based_on"}
            if event["event"] == "metrics":
                values["metrics"] = {k: v for k, v in event["metrics"].items() if not k.startswith(AT_END)}
                if event["step"] <= step and values["metrics"]:
                    yield values
            elif event["event"] == "state":
                if event["state"] == "finished":
                    values |= {"state": "interrupted", "reason": "a longer run continues it"}
                yield values | {"step": min(event["step"], step)}
            elif event["event"] != "artifact":
                yield values


def _copy_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    folder = target / "checkpoints" / checkpoint.folder.name
    for path in sorted(checkpoint.folder.rglob("*")):
        own = folder / path.relative_to(checkpoint.folder)
        if path.is_dir():
            own.mkdir(parents=True)
        elif path.name != STATE or path.parent != checkpoint.folder:
            own.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, own)
    folder.mkdir(exist_ok=True)
    seal(folder, checkpoint.step, checkpoint.state, journal.measure(target))
