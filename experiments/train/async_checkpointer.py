"""Saves checkpoints in the background: all ranks copy their state, and rank 0 writes it while training continues."""

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
from experiments.train.callbacks.run_callbacks import RunCallbacks
from modules.parallel.base import Engine


@dataclass(frozen=True)
class BestCheckpoint:
    """The metric by which a step is the best so far."""

    metric: str
    value: float
    mode: Literal["min", "max"]


class AsyncCheckpointer:
    """Saves and marks checkpoints. All ranks call each method at the same step."""

    def __init__(self, engine: Engine, model: nn.Module, checkpoints: Checkpoints, callbacks: RunCallbacks) -> None:
        self.engine, self.model, self.checkpoints = engine, model, checkpoints
        self.callbacks, self.is_first = callbacks, callbacks.is_first
        self.last_saved = -1
        """The last step that was saved or restored; -1 before."""
        self._writing: Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, done: int, metrics: Mapping[str, float], best: BestCheckpoint | None = None,
        carried: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Save a step unless it is saved already, and mark it if it is the best.

        Args:
            done: number of steps done.
            metrics: of its evaluation.
            best: if it may be the best step.
            carried: metrics of training steps that are still to be logged.

        Raises:
            TrainingError: a weight is not a finite number.
            CheckpointError: an earlier checkpoint could not be written.
        """
        self.wait()
        write: Callable[[Path], None] | None = None
        if self.last_saved != done:
            self._check_weights(done)
            write = self._take_snapshot()
            self.last_saved = done
        state = {"val": dict(metrics), **({"train": dict(carried)} if carried else {})}
        if self.is_first:
            self._writing = Thread(target=self._write, args=(done, write, state, best))
            self._writing.start()

    def _take_snapshot(self) -> Callable[[Path], None] | None:
        write_engine, write_callbacks = self.engine.snapshot(), self.callbacks.snapshot()
        if write_engine is None:
            return None

        def write(folder: Path) -> None:
            write_engine(folder)
            write_callbacks(folder)

        return write

    def is_better(self, best: BestCheckpoint) -> bool:
        """Return whether this is better than every checkpoint. Rank 0 decides."""
        self.wait()
        better = self.is_first and self.checkpoints.is_better(best.metric, best.value, best.mode)
        return self.engine.gather(float(better))[0] > 0

    def finish(self) -> None:
        """Wait until the current write has ended, with or without an error."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def wait(self) -> None:
        """Wait until the current checkpoint is on the disk.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        self.finish()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(
        self, done: int, write: Callable[[Path], None] | None, state: dict[str, Any], best: BestCheckpoint | None
    ) -> None:
        try:
            if write is not None:
                self.checkpoints.save(done, write, state)
            if best is not None and self.checkpoints.has(done):  # it may have been removed meanwhile
                self.checkpoints.mark_best(done, best.metric, best.value, best.mode)
        except BaseException as err:  # raised again by `wait` in the training thread
            self._error = err

    def _check_weights(self, done: int) -> None:
        # ZeRO 3 leaves parameters empty and stores this rank's shard in ds_tensor.
        tensors = (getattr(parameter, "ds_tensor", parameter) for parameter in self.model.parameters())
        is_finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
        if not all(self.engine.gather(float(is_finite))):
            raise TrainingError(
                f"the weights after step {done} are not all finite numbers, although the loss was, so a "
                "gradient was not; set grad_clip_norm or lower optimizer.lr (the last checkpoint is from an earlier step)"
            )
