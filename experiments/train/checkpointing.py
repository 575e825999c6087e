"""Saves a training that may run on many ranks: all copy their state, and the first writes it while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from torch import nn

from experiments.core.errors import TrainingError
from experiments.run.checkpoint import Checkpoints
from modules.parallel.base import Engine


@dataclass(frozen=True)
class BestCheckpoint:
    """What makes a step the best so far."""

    metric: str
    value: float
    mode: Literal["min", "max"]


class AsyncCheckpointer:
    """Every method is called by all ranks at the same point."""

    def __init__(self, engine: Engine, model: nn.Module, checkpoints: Checkpoints, is_first: bool) -> None:
        self.engine, self.model, self.checkpoints, self.is_first = engine, model, checkpoints, is_first
        self.saved = 0
        """The last step that was saved or restored."""
        self._writing: Thread | None = None
        self._fault: BaseException | None = None

    def save(self, done: int, metrics: Mapping[str, float], best: BestCheckpoint | None = None) -> None:
        """Save a step, if it is not saved, and mark it if it is the best.

        Raises:
            TrainingError: the weights are no numbers.
            CheckpointError: an earlier one could not be written.
        """
        self.wait()
        write: Callable[[Path], None] | None = None
        if self.saved != done:
            self._check_weights(done)
            write = self.engine.snapshot()
            self.saved = done
        if self.is_first:
            self._writing = Thread(target=self._write, args=(done, write, {"val": dict(metrics)}, best))
            self._writing.start()

    def is_better(self, best: BestCheckpoint) -> bool:
        """Whether no checkpoint is as good, as the first rank sees it."""
        self.wait()
        better = self.is_first and self.checkpoints.is_better(best.metric, best.value, best.mode)
        return self.engine.gather(float(better))[0] > 0

    def finish(self) -> None:
        """Until what is being written is on the disk, or cannot be."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def wait(self) -> None:
        """Until what is being written is on the disk.

        Raises:
            CheckpointError: it could not be written.
        """
        self.finish()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _write(
        self, done: int, write: Callable[[Path], None] | None, state: dict[str, Any], best: BestCheckpoint | None
    ) -> None:
        try:
            if write is not None:
                self.checkpoints.save(done, write, state)
            if best is not None:
                self.checkpoints.mark_best(done, best.metric, best.value, best.mode)
        except BaseException as err:  # raised again by the thread that trains, which ends the run for it
            self._fault = err

    def _check_weights(self, done: int) -> None:
        # ZeRO 3 leaves parameters empty and keeps this rank's part beside them.
        parts = (getattr(parameter, "ds_tensor", parameter) for parameter in self.model.parameters())
        is_fine = all(bool(torch.isfinite(part).all()) for part in parts)
        if not all(self.engine.gather(float(is_fine))):
            raise TrainingError(
                f"the weights after step {done} are not all finite numbers, though the loss was: a gradient was not; "
                "set grad_clip_norm, or lower optimizer.lr (the last checkpoint is from before)"
            )
