"""Loads checkpoints into the engine: the newest one to resume a run, the delivered one to measure it."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.core.errors import TrainingError
from experiments.run.checkpoint import Checkpoint, Checkpoints
from experiments.train.callbacks.run_callbacks import RunCallbacks
from modules.parallel.base import Engine


class CheckpointLoader:
    """Loads checkpoints. Rank 0 decides which one, and all ranks call each method at the same step."""

    def __init__(self, engine: Engine, checkpoints: Checkpoints, callbacks: RunCallbacks) -> None:
        self.engine, self.checkpoints = engine, checkpoints
        self.callbacks, self.is_first = callbacks, callbacks.is_first

    def load_newest(self) -> Checkpoint | None:
        """Load the newest checkpoint that every rank can load; None if there is none.

        Raises:
            TrainingError: no checkpoint can be restored.
        """
        return self._load_first(self.checkpoints.newest_first())

    def load_delivered(self, done: int) -> Checkpoint | None:
        """Load the checkpoint that the run delivers; None if the engine has its weights already.

        If it cannot be loaded, the run delivers the newest one that can.

        Args:
            done: number of steps done; the engine has the weights of this step, which is saved.

        Raises:
            TrainingError: no checkpoint can be restored.
        """
        has_weights = self.is_first and self.checkpoints.delivers(done)
        if self.engine.gather(float(has_weights))[0] > 0:
            if has_weights and not self.checkpoints.has_best:  # the mark is unreadable, or there is none
                self.checkpoints.unmark_best()
            return None
        checkpoint = self._load_first(self._delivered_first())
        if self.is_first and checkpoint is not None and not self.checkpoints.delivers(checkpoint.step):
            self.checkpoints.unmark_best()
        return checkpoint

    def _delivered_first(self) -> Iterator[Checkpoint]:
        if (delivered := self.checkpoints.delivered()) is not None:
            yield delivered
        yield from self.checkpoints.newest_first()

    def _load_first(self, candidates: Iterator[Checkpoint]) -> Checkpoint | None:
        """Load the first candidate of rank 0 that every rank can load.

        Checkpoints that cannot be loaded are removed once another one was loaded, so they are not tried again.
        """
        engine, errors = self.engine, dict[int, str]()
        while True:
            candidate = next(candidates, None) if self.is_first else None
            step = int(engine.gather(float(candidate.step if candidate else -1))[0])
            if step < 0:
                break
            checkpoint = candidate or self.checkpoints.at(step)
            error = self._load(checkpoint)
            if max(engine.gather(float(error is not None))) > 0:
                errors[step] = error or "another rank could not read it"
                continue
            for damaged, reason in errors.items() if self.is_first else ():
                self.checkpoints.discard(damaged, reason)
            return checkpoint
        if errors:
            raise TrainingError(
                f"no checkpoint of this run can be restored; the one of step {max(errors)}: {errors[max(errors)]}"
            )
        return None

    def _load(self, checkpoint: Checkpoint | None) -> str | None:
        """Load a checkpoint; return the error if it cannot be loaded."""
        if checkpoint is None:
            return "it is damaged on this rank"
        try:
            self.engine.load(checkpoint.folder)
            self.callbacks.load(checkpoint.folder)
        except ValueError as err:
            return " ".join(str(err).split())
        return None
