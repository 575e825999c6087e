"""The training loop: parts to events. Which devices take part is the engine's affair."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from experiments.components.assemble import Components
from experiments.core.errors import InputError, TrainingError
from experiments.core.seeding import derive_seed
from experiments.plan.estimate import layout_of
from experiments.plan.plan import Plan
from experiments.run.checkpoint import Checkpoint, Checkpoints
from experiments.run.history import PreviousAttempts
from experiments.run.journal import Journal
from experiments.train.checkpointing import AsyncCheckpointer, BestCheckpoint
from experiments.train.data_digest import fingerprint
from experiments.train.data_loading import DataShard, evaluation_batches, training_batches
from experiments.train.evaluator_check import dry_run
from experiments.train.evaluator_files import EvaluatorArtifacts
from experiments.train.metric_logging import MetricLogger
from experiments.train.profiler import Profiler, count_work, profile_metrics
from experiments.train.resource_usage import Usage, memory_peak_gib, memory_peaks
from experiments.train.stop_agreement import StopConsensus
from modules.data.base import Batch, Split
from modules.parallel.base import EngineConfig, Rank
from modules.parallel.topology import AXES, RankCoordinates


@dataclass
class Trainer:
    """One attempt: from the last checkpoint, or from nothing, to the end or to the first reason to stop."""

    config: Mapping[str, Any]
    plan: Plan
    parts: Components
    journal: Journal
    checkpoints: Checkpoints
    should_stop: Callable[[], str | None]
    """Why to stop after this step, such as "SIGTERM"; None to go on."""
    on_running: Callable[[int, str | None], None]
    """Told the steps that are done: once when training begins, then again with every warning."""
    earlier: PreviousAttempts = field(default_factory=PreviousAttempts)
    """What earlier attempts have left."""
    rank: Rank = field(default_factory=Rank)
    """Which of the processes of this training this is; the first alone writes."""
    profile_folder: Path | None = None
    """Where a trace of a few steps goes; None: none is made."""
    flops_per_step: int | None = None
    """Counted operations of one update, over all devices; None: not counted."""
    folder: Path = Path()
    """The attempt's."""
    last_step: int | None = None
    """Where a repetition of the first steps of a run ends; None: it goes on to the end."""
    done: int = 0
    """Steps that are done."""

    def __post_init__(self) -> None:
        self.place = self.plan.topology.place(self.rank.number)
        self.share = DataShard(self.place.data, self.plan.topology.data)
        self.num_together = self.plan.topology.world  # ranks that make every step, each in its place
        self.sees_all = True  # nothing trains but the processes of the ranks
        # Before an engine takes parts of the model away.
        model = self.parts.task.model
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.showing = EvaluatorArtifacts(self.parts.evaluator, model, self.rank.number == 0)

    def run(self) -> tuple[Literal["finished", "interrupted"], str | None]:
        """Train.

        Returns:
            How it ended, and why it stopped.

        Raises:
            InputError: this machine has not the device that was asked for.
            TrainingError: the loss is no number any more, or no checkpoint can be restored.
            CheckpointError: the disk is full.
        """
        plan, engine = self.plan, self.parts.engine
        with self._wrong_input():
            self._try_evaluator()
            self._count_work()
            engine.prepare(self.parts.task, self.engine_config())
            train, val, test = (self._load(name) for name in ("train", "val", "test"))  # what is missing is told now
        self.saver = AsyncCheckpointer(engine, self.parts.task.model, self.checkpoints, self.rank.number == 0)
        self.journal.params({**_derived(self.num_parameters, plan), **self._environment(), **self._interface()})
        first_step = self._restore()
        self.usage = self._usage(first_step)
        self.profiler = Profiler(self.profile_folder, self.rank.number, first_step)
        try:
            ended = self._train(train, val, first_step)
            if ended[0] == "finished":
                self._evaluate("test", test, plan.num_steps)
                self.showing.show(engine, test, self.journal.path.parent / "test", self.journal)
        except BaseException:
            self.profiler.close()
            self.saver.finish()  # a fault of the writing would hide this one
            raise
        self.profiler.close()
        self.saver.wait()
        self._tell_warnings()
        self.journal.metrics(self.done, self.usage.totals(self.done, engine.gather))
        engine.gather(0.0)  # nobody leaves before the first rank has written all
        return ended

    def _train(
        self, train: Split, val: Split, first_step: int
    ) -> tuple[Literal["finished", "interrupted"], str | None]:
        config, plan, engine = self.config, self.plan, self.parts.engine
        self.done = first_step
        self.on_running(first_step, None)
        self._tell_warnings()
        batches = self._batches(train, first_step)
        schedule, tokens = self.parts.task.schedule, _tokens(self.parts.data.example(1))
        curve = MetricLogger(config, plan, schedule, self.journal, first_step, tokens, self._of_step)
        agreement = StopConsensus(engine, self.should_stop, self.num_together, first_step)
        if first_step < plan.num_steps and (reason := agreement.reason(first_step)) is not None:
            return "interrupted", f"{reason} before step {first_step + 1}"
        for step, batch in enumerate(curve.clock.waiting(batches), start=first_step):
            seed_step(config["seed"], step, self.place)
            # What an objective refuses of a model in training, it refuses at once.
            with self.profiler.step(step), self._wrong_input() if step == first_step else nullcontext():
                metrics = engine.train_step(batch, step)
            self.done = done = step + 1
            curve.add(done, metrics)
            with curve.clock:
                self._tell_profile(step)
            if self._is_due(done, config["eval_every_steps"]):
                with curve.paused():
                    self._evaluate("val", val, done)
            if self._is_due(done, config["checkpoint"]["every_steps"]):
                with curve.paused():
                    self._save(done)
            if done < plan.num_steps and (reason := self._why_to_stop(agreement)) is not None:
                curve.drain()
                self._save(done)
                self.saver.wait()
                return "interrupted", f"{reason} after step {done}, which is saved"
        return "finished", None

    def engine_config(self) -> EngineConfig:
        """What is asked of the engine."""
        looks = (self.config["eval_every_steps"], self.config["checkpoint"]["every_steps"], self.last_step or 0)
        every = tuple(steps for steps in looks if steps)
        return replace(_recipe(self.config, self.plan, self.rank), meets_every=every, folder=self.folder)

    def _batches(self, train: Split, first_step: int) -> Iterator[Batch]:
        plan, config = self.plan, self.config
        return training_batches(
            train,
            plan.batch_size_global,
            config["seed"],
            first_step,
            plan.num_steps,
            config["num_data_workers"],
            self.share,
        )

    def _of_step(self, done: int, step_time_s: float) -> Mapping[str, float]:
        """Metrics beside a point of the training curve."""
        return self.usage.of_step(done, step_time_s)

    def _why_to_stop(self, agreement: StopConsensus) -> str | None:
        return "as far as was asked," if self.done == self.last_step else agreement.reason(self.done)

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
        names, self.interface = dry_run(self.parts, layout_of(self.config, self.plan))
        names = [f"val/{name}" for name in names]
        wanted = self.config["checkpoint"]["best_metric"]
        if wanted is not None and wanted not in names:
            raise ValueError(
                f"checkpoint.best_metric={wanted} is not what is measured; name one of {', '.join(sorted(names))}, or null"
            )

    def _count_work(self) -> None:
        """DeepSpeed's count, of one micro-batch through the whole model, where a profile was asked for."""
        if self.profile_folder is not None and self.rank.number == 0:
            inputs, _ = self.parts.data.example(self.plan.batch_size_per_device)
            self.journal.params(count_work(self.parts.task.model, inputs, self.profile_folder))

    def _tell_profile(self, step: int) -> None:
        own = self.profiler.result(step)
        if own is None or self.profile_folder is None:
            return
        ranks = {name: self.parts.engine.gather(value) for name, value in own.items()}
        self.journal.metrics(step + 1, profile_metrics(ranks, self.plan.topology.pipe))
        self.journal.artifact("/".join(self.profile_folder.parts[-3:]))  # below the run's: attempts/1/profile

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.plan.num_steps

    def _restore(self) -> int:
        """Steps that an earlier attempt has done: those of the newest checkpoint that every rank can load.

        What cannot be loaded is removed once an older checkpoint was: it would be taken for the newest for ever.
        """
        engine, faults = self.parts.engine, dict[int, str]()
        newest = self.checkpoints.newest_first()
        while True:
            found = next(newest, None) if self.rank.number == 0 else None
            step = int(engine.gather(float(found.step if found else -1))[0])  # which one is the first rank's choice
            if step < 0:
                break
            checkpoint = found or self.checkpoints.at(step)
            fault = self._load_state(checkpoint)
            if max(engine.gather(float(fault is not None))) > 0:
                faults[step] = fault or "another rank could not read it"
                continue
            for damaged, why in faults.items() if self.rank.number == 0 else ():
                self.checkpoints.discard(damaged, why)
            self.saver.saved = step
            self._keep_best(step, checkpoint.state.get("val", {}) if checkpoint else {})
            return step
        if faults:
            raise TrainingError(
                f"no checkpoint of this run can be restored; of step {max(faults)}: {faults[max(faults)]}"
            )
        return 0

    def _load_state(self, checkpoint: Checkpoint | None) -> str | None:
        """Load one; what is wrong with it where it cannot be."""
        if checkpoint is None:
            return "this rank finds it damaged"
        try:
            self.parts.engine.load(checkpoint.folder)
        except ValueError as err:
            return " ".join(str(err).split())
        return None

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
        if (before := self.earlier.digests.get(name, digest)) != digest:
            raise TrainingError(
                f"data={source} has changed: the split '{name}' has the digest {digest}, and an earlier attempt saw {before}; "
                "bring the files back, or start a new run"
            )
        self.journal.data(name=source, digest=digest, num_examples=len(split), split=name)
        return split

    def _evaluate(self, name: str, split: Split, done: int) -> None:
        config, engine = self.config, self.parts.engine
        if config["num_data_workers"]:
            self.saver.wait()  # workers are forked, and a lock that the writing thread held would stay locked in them
        batches = evaluation_batches(split, config["batch_size_eval"], config["num_data_workers"], self.share)
        found = engine.evaluate(batches, self.parts.evaluator)
        metrics = {f"{name}/{metric}": value for metric, value in found.items()}
        self.journal.metrics(done, metrics)
        self.journal.metrics(done, memory_peaks(engine.gather(memory_peak_gib())))
        if name == "val":
            if done < self.plan.num_steps:
                self.journal.metrics(done, self.usage.totals(done, engine.gather))
            self._keep_best(done, metrics)

    def _keep_best(self, done: int, metrics: Mapping[str, float]) -> None:
        """Save and mark a step if none was better; again after a resume, as a crash can come between the two."""
        settings = self.config["checkpoint"]
        wanted = settings["best_metric"]
        if wanted in metrics:
            best = BestCheckpoint(wanted, metrics[wanted], settings["best_mode"])
            if self.saver.is_better(best):
                self._save(done, metrics, best)

    def _usage(self, first_step: int) -> Usage:
        peak = self.config["hardware"]["peak_tflops"]
        return Usage(
            self.config["system_every_s"],
            self.plan.topology.world,
            self.flops_per_step,
            None if peak is None else peak * 1e12,
            self.earlier,
            first_step,
            on_gpu=self._is_on_gpu(),
            sees_all=self.sees_all,
        )

    def _is_on_gpu(self) -> bool:
        return any(parameter.is_cuda for parameter in self.parts.task.model.parameters())

    def _interface(self) -> dict[str, Any]:
        """What the model takes and gives, for whoever exports it, and what the data that is read calls its classes."""
        names = getattr(self.parts.data, "class_names", None)
        words = {**self.interface.words(), "class_names": names and [str(name) for name in names]}
        return {f"plan.{key}": value for key, value in words.items() if value is not None}

    def _environment(self) -> dict[str, str]:
        """What the last bits of a result depend on beside the plan."""
        return {
            "env.torch": torch.__version__,
            "env.device_name": torch.cuda.get_device_name() if self._is_on_gpu() else "cpu",
            "env.cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "env.determinism": self.config["determinism"],
        }

    def _save(self, done: int, metrics: Mapping[str, float] | None = None, best: BestCheckpoint | None = None) -> None:
        begin = time.perf_counter()
        self.saver.wait()
        self._tell_warnings()
        self.saver.save(done, metrics or {}, best)
        self.journal.metrics(done, {"perf/checkpoint_stall_ms": (time.perf_counter() - begin) * 1e3})


def seed_step(seed: int, step: int, place: RankCoordinates) -> None:
    """Chance of one step: a pure function of seed and step, so that nothing of it has to be saved.

    Ranks that hold slices of the same layers draw the same; replicas and stages draw apart.
    """
    number = derive_seed(seed, "step", step, place.data, place.pipe)
    # Not torch.manual_seed, which takes 90 us to ask for every kind of device (torch 2.13, 2026-11-24); this takes one.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number % 2**32)


def _derived(num_parameters: int, plan: Plan) -> dict[str, int]:
    """What follows from the configuration and is worth comparing between runs."""
    return {
        "plan.num_parameters": num_parameters,
        "plan.num_steps": plan.num_steps,
        "plan.num_accumulation": plan.num_accumulation,
        "plan.cpu_threads": torch.get_num_threads(),
        **{f"plan.{axis}": getattr(plan.topology, axis) for axis in AXES},
    }


def _recipe(config: Mapping[str, Any], plan: Plan, rank: Rank) -> EngineConfig:
    return EngineConfig(
        num_steps=plan.num_steps,
        num_accumulation=plan.num_accumulation,
        grad_clip_norm=config["grad_clip_norm"],
        precision=config["precision"],
        compile=config["compile"],
        channels_last=config["channels_last"],
        device=config["hardware"]["device"],
        batch_size_per_device=plan.batch_size_per_device,
        topology=plan.topology,
        rank=rank,
    )


def _tokens(example: Batch) -> int:
    """Tokens of one example's targets; 0 where they are no sequence."""
    targets = example[1]
    is_sequence = isinstance(targets, Tensor) and targets.dim() == 2 and not targets.is_floating_point()
    return targets.shape[1] if is_sequence else 0  # type: ignore[union-attr]
