"""Saving while training goes on."""

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
from experiments.train.checkpointing import AsyncCheckpointer, BestCheckpoint


class Engine:
    """Two ranks, of which this is one; its snapshots are written when they may."""

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
            assert self.may_write.wait(20)
            (folder / "weights").write_text(str(number))

        return write


def saver(folder: Path, engine: Any, *, is_first: bool = True, model: nn.Module | None = None) -> AsyncCheckpointer:
    return AsyncCheckpointer(engine, model or nn.Linear(2, 3), Checkpoints(folder, keep_last=2), is_first)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    engine = Engine()
    found = saver(tmp_path, engine)
    engine.may_write.clear()
    found.save(3, {"val/x": 1.0})  # returns, though nothing can be written yet
    assert not list(tmp_path.glob("checkpoints/step_*"))
    engine.may_write.set()
    found.wait()
    latest = Checkpoints(tmp_path, 2).latest()
    assert latest is not None
    assert (latest.step, latest.state) == (3, {"val": {"val/x": 1.0}})


def test_a_step_is_saved_once_and_marked_later(tmp_path: Path) -> None:
    engine = Engine()
    found = saver(tmp_path, engine)
    found.save(3, {})
    best = BestCheckpoint("val/x", 0.5, "max")
    assert found.is_better(best)
    found.save(3, {}, best)
    found.wait()
    assert engine.snapshots == 1
    marked = Checkpoints(tmp_path, 2).best()
    assert marked is not None
    assert marked.step == 3
    assert not found.is_better(BestCheckpoint("val/x", 0.4, "max"))


def test_a_fault_of_the_writing_is_raised_by_who_trains(tmp_path: Path) -> None:
    found = saver(tmp_path, Engine())
    (tmp_path / "checkpoints").write_text("in the way")
    found.save(3, {})
    with pytest.raises(CheckpointError, match="could not be written"):
        found.save(4, {})
    found.wait()  # told once


def test_other_ranks_copy_and_write_nothing(tmp_path: Path) -> None:
    engine = Engine()
    found = saver(tmp_path, engine, is_first=False)
    found.save(3, {})
    found.wait()
    assert engine.snapshots == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whose", ["its own", "another rank's"])
def test_weights_that_are_no_numbers_are_not_saved(whose: str, tmp_path: Path) -> None:
    engine, model = Engine(), nn.Linear(2, 3)
    if whose == "its own":
        with torch.no_grad():
            model.weight[1, 1] = float("inf")
    else:
        engine.others = [0.0]
    with pytest.raises(TrainingError, match="the weights after step 3 are not all finite numbers"):
        saver(tmp_path, engine, model=model).save(3, {})
    assert engine.snapshots == 0
