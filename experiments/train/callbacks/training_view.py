"""What callbacks may use of a training, and steps that leave no trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.components.assemble import Components
from experiments.run.journal import Journal
from experiments.train.determinism import seed_step
from modules.data.base import Split, Tree
from modules.parallel.base import Engine
from modules.parallel.topology import RankCoordinates


@dataclass(frozen=True)
class TrainingView:
    """The training of one attempt, as `modules.callback.base.Training` describes it."""

    num_steps: int
    seed: int
    val: Split
    components: Components
    journal: Journal
    run_folder: Path
    coordinates: RankCoordinates
    is_first: bool
    """Whether this rank writes."""
    delivered_weights: Callable[[], AbstractContextManager[None]]
    make_batches: Callable[[int], Iterator[Tree]]
    """Makes the first batches of the training."""

    @property
    def task(self) -> Any:
        return self.components.setup.get_task()

    @property
    def evaluator(self) -> Any:
        return self.components.evaluator

    def log_params(self, params: Mapping[str, float | str]) -> None:
        self.journal.params(dict(params))

    def print(self, line: str) -> None:
        if self.is_first:
            print(line, flush=True)

    def try_steps(self, learning_rates: Sequence[float], goes_on: Callable[[Mapping[str, float]], bool]) -> None:
        engine, factors = self.components.engine, self._find_factors(learning_rates)
        with _restored(engine, self.run_folder / ".before_first_step", is_first=self.is_first):
            for step, (factor, batch) in enumerate(zip(factors, self.make_batches(len(factors)), strict=True)):
                seed_step(self.seed, step, self.coordinates)
                with _fixed_schedule(engine, factor):
                    metrics = engine.train_step(batch, step)
                if not goes_on({name: value.item() for name, value in metrics.items()}):
                    break
        self.components.setup.model.zero_grad(set_to_none=True)

    def _find_factors(self, learning_rates: Sequence[float]) -> list[float]:
        engine = self.components.engine
        updates = getattr(engine, "updates", None)
        if not updates:
            raise ValueError(
                f"engine {type(engine).__name__} does not let a callback try steps; use parallel=single or data"
            )
        base = updates[0].initial_lrs[0]
        if not base > 0:
            raise ValueError(f"optimizer.lr={base} cannot be raised; set optimizer.lr above 0 to try learning rates")
        return [rate / base for rate in learning_rates]


@dataclass(frozen=True)
class _Fixed:
    """A schedule with one factor."""

    value: float

    def factor(self, step: int, num_steps: int) -> float:
        return self.value


@contextmanager
def _fixed_schedule(engine: Any, factor: float) -> Iterator[None]:
    """Multiply the learning rates of all updates by a factor, in place of their schedules."""
    schedules = [update.schedule for update in engine.updates]
    try:
        for update in engine.updates:
            update.schedule = _Fixed(factor)
        yield
    finally:
        for update, schedule in zip(engine.updates, schedules, strict=True):
            update.schedule = schedule


@contextmanager
def _restored(engine: Engine, folder: Path, *, is_first: bool) -> Iterator[None]:
    """Save the state of the engine, and load it at the end, on all ranks. After an error nothing is loaded."""
    write = engine.snapshot()
    if is_first:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
    if write is not None:
        write(folder)
    engine.gather(0.0)  # the files are complete
    try:
        yield
        engine.load(folder)
        engine.gather(0.0)  # every rank has read them
    finally:
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
