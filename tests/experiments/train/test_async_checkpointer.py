"""Saving while training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.core.errors import TrainingError
from experiments.run.checkpoint import CheckpointError, Checkpoints
from experiments.train.async_checkpointer import AsyncCheckpointer, BestCheckpoint
from experiments.train.callbacks.run_callbacks import RunCallbacks
from tests.support.waiting import PATIENCE_S


class Engine:
    """One of two ranks; the test decides when a snapshot is written."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.may_write.set()
        self.snapshots = 0
        self.others: list[float] = [1.0]

    def gather(self, value: float) -> list[float]:
        return [value, *self.others]

    def snapshot(self) -> Callable[[Path], None]:
        self.snapshots += 1
        number = self.snapshots

        def write(folder: Path) -> None:
            assert self.may_write.wait(PATIENCE_S)
            (folder / "weights").write_text(str(number))

        return write


def make_checkpointer(
    folder: Path, engine: Any, *, is_first: bool = True, model: nn.Module | None = None
) -> AsyncCheckpointer:
    model = model or nn.Linear(2, 3)
    callbacks = RunCallbacks(model, {}, None, is_first=is_first)
    return AsyncCheckpointer(engine, model, Checkpoints(folder, keep_last=2), callbacks)


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    engine = Engine()
    checkpointer = make_checkpointer(tmp_path, engine)
    engine.may_write.clear()
    checkpointer.save(3, {"val/x": 1.0})  # returns although nothing can be written yet
    assert not list(tmp_path.glob("checkpoints/step_*"))
    engine.may_write.set()
    checkpointer.wait()
    latest = Checkpoints(tmp_path, 2).latest()
    assert latest is not None
    assert (latest.step, latest.state) == (3, {"val": {"val/x": 1.0}})


def test_a_step_is_saved_once_and_marked_later(tmp_path: Path) -> None:
    engine = Engine()
    checkpointer = make_checkpointer(tmp_path, engine)
    checkpointer.save(3, {})
    best = BestCheckpoint("val/x", 0.5, "max")
    assert checkpointer.is_better(best)
    checkpointer.save(3, {}, best)
    checkpointer.wait()
    assert engine.snapshots == 1
    marked = Checkpoints(tmp_path, 2).best()
    assert marked is not None
    assert marked.step == 3
    assert not checkpointer.is_better(BestCheckpoint("val/x", 0.4, "max"))


def test_an_error_of_the_write_is_raised_in_the_training_thread(tmp_path: Path) -> None:
    checkpointer = make_checkpointer(tmp_path, Engine())
    (tmp_path / "checkpoints").write_text("in the way")
    checkpointer.save(3, {})
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpointer.save(4, {})
    checkpointer.wait()  # raised only once


def test_other_ranks_make_a_snapshot_but_write_nothing(tmp_path: Path) -> None:
    engine = Engine()
    checkpointer = make_checkpointer(tmp_path, engine, is_first=False)
    checkpointer.save(3, {})
    checkpointer.wait()
    assert engine.snapshots == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whose", ["its own", "another rank's"])
def test_weights_that_are_not_finite_are_not_saved(whose: str, tmp_path: Path) -> None:
    engine, model = Engine(), nn.Linear(2, 3)
    if whose == "its own":
        with torch.no_grad():
            model.weight[1, 1] = float("inf")
    else:
        engine.others = [0.0]
    with pytest.raises(TrainingError, match="the weights after step 3 are not all finite numbers"):
        make_checkpointer(tmp_path, engine, model=model).save(3, {})
    assert engine.snapshots == 0
