"""The training loop: parts to events. Which devices take part is the engine's affair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.batches import evaluation_batches, training_batches
from experiments.checkpoint import Checkpoints
from experiments.faults import InputError
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
    on_running: Callable[[int, str | None], None]
    """Told the steps that are done: once when training begins, then again with every warning."""
    digests_before: Mapping[str, str] = field(default_factory=dict)
    """What the splits of the data were to earlier attempts, by name."""
    done: int = 0
    """Steps that are done."""

    def run(self) -> tuple[Literal["finished", "stopped"], str | None]:
        """Train.

        Returns:
            How it ended, and why it stopped.

        Raises:
            InputError: this machine has not the device that was asked for.
            TrainingError: the loss is no number any more, or no checkpoint can be restored.
            CheckpointError: the disk is full.
        """
        config, plan, engine = self.config, self.plan, self.parts.engine
        with self._wrong_input():
            self._try_evaluator()
            engine.prepare(self.parts.learner, _recipe(config, plan))
            train, val, test = (self._load(name) for name in ("train", "val", "test"))  # what is missing is told now
        self.journal.params(_derived(self.parts, plan))
        first_step = self.done = self._restore()  # after the data, whose reading may have drawn random numbers
        self.on_running(first_step, None)
        self._tell_warnings()
        batches = training_batches(
            train, plan.batch_size_global, config["seed"], first_step, plan.num_steps, config["num_data_workers"]
        )
        curve = _Curve(self, first_step)
        if first_step < plan.num_steps and (reason := self.should_stop()) is not None:
            return "stopped", f"{reason} before step {first_step + 1}"
        for step, batch in enumerate(batches, start=first_step):
            metrics = engine.train_step(batch, step)
            self.done = done = step + 1
            curve.add(done, metrics)
            if self._is_due(done, config["eval_every_steps"]):
                with curve.paused():
                    self._evaluate("val", val, done)
            if self._is_due(done, config["checkpoint"]["every_steps"]):
                with curve.paused():
                    self._save(done)
            if done < plan.num_steps and (reason := self.should_stop()) is not None:
                curve.drain()
                self._save(done)
                return "stopped", f"{reason} after step {done}, which is saved"
        self._evaluate("test", test, plan.num_steps)
        return "finished", None

    @contextmanager
    def _wrong_input(self) -> Iterator[None]:
        """What a part refuses here follows from the configuration, not from the training."""
        try:
            yield
        except ValueError as err:
            raise InputError([str(err)], f"the plan for '{self.plan.name}'") from err

    def _try_evaluator(self) -> None:
        """Measure two empty examples, so that a wrong evaluator is told now and not after hours.

        Raises:
            ValueError: it cannot measure the model's outputs, or not the metric that the best checkpoint goes by.
        """
        inputs, targets = self.parts.data.example(2)
        model, evaluator = self.parts.learner.model, self.parts.evaluator
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            outputs = model.eval()(inputs)
            model.train()
            _, other = self.parts.learner.objective(outputs, targets)
            names = [f"val/{name}" for name in {**other, **evaluator.metrics(evaluator.measure(outputs, targets))}]
        wanted = self.config["checkpoint"]["best_metric"]
        if wanted is not None and wanted not in names:
            raise ValueError(
                f"checkpoint.best_metric={wanted} is not what is measured; name one of {', '.join(sorted(names))}, or null"
            )

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.plan.num_steps

    def _restore(self) -> int:
        """Steps that an earlier attempt has done.

        What cannot be loaded is removed once an older checkpoint was: it would be taken for the newest for ever.
        """
        faults: dict[int, str] = {}
        for checkpoint in self.checkpoints.newest_first():
            try:
                self.parts.engine.load(checkpoint.folder)
            except ValueError as err:
                faults[checkpoint.step] = " ".join(str(err).split())
                continue
            for step, fault in faults.items():
                self.checkpoints.discard(step, fault)
            self._keep_best(checkpoint.step, checkpoint.state.get("val", {}))
            return checkpoint.step
        if faults:
            raise TrainingError(
                f"no checkpoint of this run can be restored; of step {max(faults)}: {faults[max(faults)]}"
            )
        return 0

    def _tell_warnings(self) -> None:
        for warning in self.checkpoints.warnings:
            self.on_running(self.done, warning)
        self.checkpoints.warnings.clear()

    def _load(self, name: str) -> Split:
        """Read a split.

        Raises:
            TrainingError: it is not what an earlier attempt saw, so that the curves would not go on but part.
        """
        split = self.parts.data.load(name)
        digest = fingerprint(split)
        source = self.config["data"].get("folder") or self.config["data"]["_target_"].rpartition(".")[2].lower()
        if (before := self.digests_before.get(name, digest)) != digest:
            raise TrainingError(
                f"data={source} has changed: the split '{name}' has the digest {digest}, and an earlier attempt saw {before}; "
                "bring the files back, or start a new run"
            )
        self.journal.data(name=source, digest=digest, num_examples=len(split), split=name)
        return split

    def _evaluate(self, name: str, split: Split, done: int) -> None:
        batches = evaluation_batches(split, self.config["batch_size_eval"], self.config["num_data_workers"])
        found = self.parts.engine.evaluate(batches, self.parts.evaluator)
        metrics = {f"{name}/{metric}": value for metric, value in found.items()}
        self.journal.metrics(done, metrics)
        if name == "val":
            self._keep_best(done, metrics)

    def _keep_best(self, done: int, metrics: Mapping[str, float]) -> None:
        """Save and mark a step if none was better; again after a resume, as a crash can come between the two."""
        settings = self.config["checkpoint"]
        wanted, mode = settings["best_metric"], settings["best_mode"]
        if wanted in metrics and self.checkpoints.is_better(wanted, metrics[wanted], mode):
            self._save(done, metrics)
            self.checkpoints.mark_best(done, wanted, metrics[wanted], mode)

    def _save(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        if not self.checkpoints.has(done):
            if not all(bool(torch.isfinite(weight).all()) for weight in self.parts.learner.model.parameters()):
                raise TrainingError(
                    f"the weights after step {done} are not all finite numbers, though the loss was: a gradient was not; "
                    "set grad_clip_norm, or lower optimizer.lr (the last checkpoint is from before)"
                )
            self.checkpoints.save(done, self.parts.engine.save, {"val": dict(metrics or {})})
        self._tell_warnings()


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
        if is_due or all(value.device.type == "cpu" for value in metrics.values()):
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


def _derived(parts: Parts, plan: Plan) -> dict[str, int]:
    """What follows from the configuration and is worth comparing between runs."""
    return {
        "plan.num_parameters": sum(parameter.numel() for parameter in parts.learner.model.parameters()),
        "plan.num_steps": plan.num_steps,
        "plan.num_accumulation": plan.num_accumulation,
        "plan.cpu_threads": torch.get_num_threads(),
    }


def _recipe(config: Mapping[str, Any], plan: Plan) -> Recipe:
    return Recipe(
        num_steps=plan.num_steps,
        num_accumulation=plan.num_accumulation,
        grad_clip_norm=config["grad_clip_norm"],
        precision=config["precision"],
        compile=config["compile"],
        device=config["hardware"]["device"],
    )
