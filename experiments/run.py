"""The training loop: parts to events. Which devices take part is the engine's affair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from experiments.batches import evaluation_batches, training_batches
from experiments.checkpoint import Checkpoints
from experiments.fingerprint import fingerprint
from experiments.journal import Journal
from experiments.parts import Parts
from experiments.plan import Plan
from modules.data.base import Split
from modules.parallel.base import Recipe


class TrainingError(Exception):
    """The training cannot go on; the message names the step and a way out."""


@dataclass
class Training:
    """One attempt: from the last checkpoint, or from nothing, to the end or to the first reason to stop."""

    config: Mapping[str, Any]
    plan: Plan
    parts: Parts
    journal: Journal
    checkpoints: Checkpoints
    should_stop: Callable[[], str | None]
    """Why to stop after this step, such as "SIGTERM"; None to go on."""
    on_start: Callable[[int], None]
    """Told the steps that are already done, once everything is in its place."""

    def run(self) -> tuple[Literal["finished", "stopped"], int, str | None]:
        """Train.

        Returns:
            How it ended, after how many steps, and why it stopped.

        Raises:
            TrainingError: the loss is no number any more.
            CheckpointError: the disk is full.
        """
        config, plan, engine = self.config, self.plan, self.parts.engine
        engine.prepare(self.parts.learner, _recipe(config, plan))
        first_step = self._restore()
        train, val = self._load("train"), self._load("val")
        self.on_start(first_step)
        batches = training_batches(
            train, plan.batch_size_global, config["seed"], first_step, plan.num_steps, config["num_data_workers"]
        )
        curve = _Curve(self, first_step)
        for step, batch in enumerate(batches, start=first_step):
            done = step + 1
            curve.add(done, engine.train_step(batch, step))
            evaluated = self._is_due(done, config["eval_every_steps"])
            if evaluated:
                with curve.paused():
                    self._evaluate("val", val, done)
            if self._is_due(done, config["checkpoint"]["every_steps"]):
                with curve.paused():
                    self._save(done)
            if (reason := self.should_stop()) is not None and done < plan.num_steps:
                curve.drain()
                self._save(done)
                return "stopped", done, reason
        self._evaluate("test", self._load("test"), plan.num_steps)
        return "finished", plan.num_steps, None

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.plan.num_steps

    def _restore(self) -> int:
        """Steps that an earlier attempt has done."""
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            return 0
        self.parts.engine.load(checkpoint.folder)
        return checkpoint.step

    def _load(self, name: str) -> Split:
        split = self.parts.data.load(name)
        self.journal.data(
            name=self.config["data"].get("folder") or self.config["data"]["_target_"].rpartition(".")[2].lower(),
            digest=fingerprint(split),
            num_examples=len(split),
            split=name,
        )
        return split

    def _evaluate(self, name: str, split: Split, done: int) -> None:
        batches = evaluation_batches(split, self.config["batch_size_eval"], self.config["num_data_workers"])
        found = self.parts.engine.evaluate(batches, self.parts.evaluator)
        metrics = {f"{name}/{metric}": value for metric, value in found.items()}
        self.journal.metrics(done, metrics)
        if name == "val":
            self._keep_best(done, metrics)

    def _keep_best(self, done: int, metrics: dict[str, float]) -> None:
        settings = self.config["checkpoint"]
        wanted, mode = settings["best_metric"], settings["best_mode"]
        if wanted is None:
            return
        if wanted not in metrics:
            raise TrainingError(
                f"checkpoint.best_metric={wanted} is not what the evaluator measures; name one of {', '.join(metrics)}"
            )
        if self.checkpoints.is_better(wanted, metrics[wanted], mode):
            self._save(done)
            self.checkpoints.mark_best(done, wanted, metrics[wanted], mode)

    def _save(self, done: int) -> None:
        if not self.checkpoints.has(done):
            self.checkpoints.save(done, self.parts.engine.save, {})


class _Curve:
    """The points of the training curves, and a watch on every step's loss."""

    def __init__(self, training: Training, first_step: int) -> None:
        self.training = training
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.every = training.config["log_every_steps"]
        self.learning_rate = training.config["optimizer"].get("lr")
        self.clock = _Clock(first_step)

    def add(self, done: int, metrics: dict[str, Tensor]) -> None:
        """Note one step. Reading a value waits for the device, so on a GPU it happens only where a point is due."""
        self.pending.append((done, metrics))
        is_due = done == 1 or self.training._is_due(done, self.every)
        if is_due or next(iter(metrics.values())).device.type == "cpu":
            values = self.drain()
            if is_due:
                self._log(done, values)

    def drain(self) -> dict[str, float]:
        """The latest step's values, after all since the last look were found to be numbers."""
        values: dict[str, float] = {}
        for done, metrics in self.pending:
            values = {f"train/{name}": tensor.item() for name, tensor in metrics.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    self.training.journal.metrics(done, values)
                    raise TrainingError(
                        f"{name}={value} at step {done} is no finite number; lower optimizer.lr, set grad_clip_norm or add "
                        "schedule.warmup_steps (the last checkpoint is from before)"
                    )
        self.pending.clear()
        return values

    def paused(self) -> _Clock:
        """A context whose time is not counted as training; losses are looked at before anything is saved."""
        self.drain()
        return self.clock

    def _log(self, done: int, values: dict[str, float]) -> None:
        if self.learning_rate is not None:
            schedule, num_steps = self.training.parts.learner.schedule, self.training.plan.num_steps
            values["train/learning_rate"] = self.learning_rate * schedule.factor(done - 1, num_steps)
        step_time_s = self.clock.step_time_s(done)
        values["perf/step_time_ms"] = step_time_s * 1e3
        values["perf/samples_per_s"] = self.training.plan.batch_size_global / step_time_s
        self.training.journal.metrics(done, values)


class _Clock:
    """Seconds of a training step, with evaluations and checkpoints left out."""

    def __init__(self, first_step: int) -> None:
        self.last_done = first_step
        self.last_time = time.perf_counter()
        self.entered = 0.0

    def step_time_s(self, done: int) -> float:
        """Mean since the last call."""
        now = time.perf_counter()
        mean = (now - self.last_time) / (done - self.last_done)
        self.last_time, self.last_done = now, done
        return mean

    def __enter__(self) -> None:
        self.entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last_time += time.perf_counter() - self.entered


def _recipe(config: Mapping[str, Any], plan: Plan) -> Recipe:
    return Recipe(
        num_steps=plan.num_steps,
        num_accumulation=plan.num_accumulation,
        grad_clip_norm=config["grad_clip_norm"],
        precision=config["precision"],
        compile=config["compile"],
        device=config["hardware"]["device"],
    )
