"""The training loop. The engine decides which devices take part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from experiments.components.assemble import Components
from experiments.components.unsaved_state import UnsavedState, check_model
from experiments.core.errors import InputError
from experiments.plan.estimate import explain_normalisation, make_layout
from experiments.plan.plan import Plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.history import PreviousAttempts
from experiments.run.journal import Journal
from experiments.run.metrics import DELIVERED_STEP, delivered_name
from experiments.train.async_checkpointer import AsyncCheckpointer, BestCheckpoint
from experiments.train.callbacks.run_callbacks import RunCallbacks
from experiments.train.callbacks.training_view import TrainingView
from experiments.train.checkpoint_loader import CheckpointLoader
from experiments.train.data_digest import load_split
from experiments.train.data_loading import DataShard, training_batches
from experiments.train.determinism import seed_step
from experiments.train.evaluation.evaluation_loop import EvaluationLoop
from experiments.train.evaluation.evaluator_check import check_evaluator
from experiments.train.evaluation.evaluator_files import EvaluatorArtifacts
from experiments.train.loading.collected import collect_batches
from experiments.train.loading.device_copy import copy_ahead
from experiments.train.loading.limited_split import limit_evaluation, limit_training
from experiments.train.loading.workers import check_handover
from experiments.train.measurement.metric_logging import MetricLogger
from experiments.train.measurement.profiler import Profiler, count_flops, make_profile_metrics
from experiments.train.measurement.resource_usage import ResourceUsage
from experiments.train.run_params import count_target_tokens, make_params
from experiments.train.stop_agreement import StopConsensus
from modules.data.base import Collector, Split, Tree
from modules.optimizer.base import list_learning_rates
from modules.parallel.base import EngineConfig, Rank


@dataclass
class Trainer:
    """Runs one attempt: from the last checkpoint, or from the start, to the end or until it is asked to stop."""

    config: Mapping[str, Any]
    plan: Plan
    components: Components
    journal: Journal
    checkpoints: Checkpoints
    should_stop: Callable[[], str | None]
    """Returns why to stop after this step, such as "SIGTERM"; None to continue."""
    on_running: Callable[[int, str | None], None]
    """Called with the number of steps done and a warning: once without one when training starts, then for each warning."""
    previous: PreviousAttempts = field(default_factory=PreviousAttempts)
    rank: Rank = field(default_factory=Rank)
    """This rank; only rank 0 writes."""
    profile_folder: Path | None = None
    """Gets a trace of a few steps; None: no trace."""
    flops_per_step: int | None = None
    """FLOPs of one update over all devices; None: not counted."""
    folder: Path = Path()
    """Folder of the attempt."""
    last_step: int | None = None
    """Where to stop when only the first steps of a run are reproduced; None: at the end."""
    done: int = 0
    """Number of steps done."""
    based_on: Mapping[str, int] = field(default_factory=dict)
    """The journals that the restored checkpoint continues."""

    def __post_init__(self) -> None:
        self.coordinates = self.plan.topology.coordinates(self.rank.number)
        self.shard = DataShard(self.coordinates.data, self.plan.topology.data)
        self.num_synchronous = self.plan.topology.world  # ranks that run every step together
        self.covers_all_processes = True  # no process trains besides the ranks
        self.delivered_step = self.previous.delivered_step
        self.logger: MetricLogger | None = None
        self.carried: Mapping[str, float] = {}
        """Metrics of the restored checkpoint for the first log."""
        self.evaluated: tuple[int, dict[str, float]] = 0, {}
        """The step that was evaluated last, and its metrics on the validation split."""
        self.evaluation_sets: dict[str, dict[str, Split]] = {}
        """By split, then by name."""
        # Now, as an engine may later take parts of the model away.
        model = self.components.setup.model
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.artifacts = EvaluatorArtifacts(self.components, self.rank.number == 0)

    def run(self) -> tuple[Literal["finished", "interrupted"], str | None]:
        """Train.

        Returns:
            The final state, and why training stopped.

        Raises:
            InputError: this machine lacks the configured device.
            TrainingError: the loss is not finite, or no checkpoint can be restored.
            CheckpointError: the disk is full.
        """
        plan, engine = self.plan, self.components.engine
        with self._as_input_error():
            self._prepare()
            train, val, test = self._load_splits()  # fail now, not after training
            self._check_handover(train)
        is_first = self.rank.number == 0
        model = self.components.setup.model
        with self._as_input_error():
            self.callbacks = RunCallbacks(model, self.components.callbacks, train, is_first=is_first)
        self.evaluation = EvaluationLoop(self.components, self.config, self.callbacks, self.shard, self.evaluation_sets)
        self.checkpointer = AsyncCheckpointer(engine, model, self.checkpoints, self.callbacks)
        self.loader = CheckpointLoader(engine, self.checkpoints, self.callbacks)
        self.callbacks.training = TrainingView(
            plan.num_steps, self.config["seed"], val, self.components, self.journal, self.checkpoints.folder.parent,
            self.coordinates, is_first, self.callbacks.delivered_weights,
            lambda num_steps: self._batches(train, 0, num_steps),
        )  # fmt: skip
        names = getattr(self.components.data, "class_names", None)
        self.journal.params(
            make_params(
                self.num_parameters, plan, self.interface, names, self.config["determinism"],
                is_on_gpu=self._is_on_gpu(),
            )
        )  # fmt: skip
        self.unsaved = UnsavedState(self.components)
        first_step = self._restore()
        self.usage = self._make_usage(first_step)
        self.profiler = Profiler(self.profile_folder, self.rank.number, first_step)
        try:
            result = self._train(train, val, first_step)
            if result[0] == "finished":
                self._evaluate_delivered(test)
        except BaseException:
            self.profiler.close()
            self.checkpointer.finish()  # an error of the write would hide this one
            raise
        finally:
            self.evaluation.close()
        self.profiler.close()
        self.checkpointer.wait()
        self._report_warnings()
        self.journal.metrics(self.done, self.usage.total_metrics(self.done, engine.gather))
        engine.gather(0.0)  # no rank exits before rank 0 has written everything
        return result

    def _train(
        self, train: Split, val: Split, first_step: int
    ) -> tuple[Literal["finished", "interrupted"], str | None]:
        config, plan, engine = self.config, self.plan, self.components.engine
        self.done = first_step
        self.on_running(first_step, None)
        self._report_warnings()
        if first_step == 0:
            with self._as_input_error():
                self.callbacks.write_artifacts(0)
        batches = self._batches(train, first_step, plan.num_steps)
        setup, tokens = self.components.setup, count_target_tokens(self.components.data.example(1))
        phases = [phase.name for phase in setup.get_task().phases()]
        rates = list_learning_rates(setup.optimizer, setup.schedule, phases)
        self.logger = logger = MetricLogger(config, plan, rates, self.journal, first_step, tokens, self._step_metrics)
        logger.latest |= self.carried
        consensus = StopConsensus(engine, self.should_stop, self.num_synchronous, first_step)
        if self.callbacks.end_reason is not None:  # the last attempt was killed when it was about to finish
            return "finished", self.callbacks.end_reason
        if first_step < plan.num_steps and (reason := consensus.reason(first_step)) is not None:
            return "interrupted", f"{reason} before step {first_step + 1}"
        if plan.num_steps == 0:  # evaluate only
            self._evaluate("val", val, 0)
            self._save(0)
        for step, batch in enumerate(logger.timer.time_waits(batches), start=first_step):
            seed_step(config["seed"], step, self.coordinates)
            # An objective that does not fit the model in training mode raises in the first step.
            with self.profiler.step(step), self._as_input_error() if step == first_step else nullcontext():
                metrics = engine.train_step(batch, step)
            self.done = done = step + 1
            logger.add(done, metrics)
            self.callbacks.on_step_end(done, metrics)
            if self.callbacks.change_weights and hasattr(engine, "refresh_weights"):
                engine.refresh_weights()
            self.unsaved.after_step(done - first_step)
            with logger.timer:
                self.callbacks.write_artifacts(done)
                self._log_profile(step)
            if self._is_due(done, config["eval_every_steps"]):
                with logger.paused():
                    self._evaluate("val", val, done)
            if self._is_due(done, config["checkpoint"]["every_steps"]):
                with logger.paused():
                    self._save(done)
            if self.callbacks.end_reason is not None:
                logger.drain()
                self._save(done)
                return "finished", self.callbacks.end_reason
            if done < plan.num_steps and (reason := self._stop_reason(consensus)) is not None:
                logger.drain()
                self._save(done)
                self.checkpointer.wait()
                return "interrupted", f"{reason} after step {done}, which is saved"
        return "finished", None

    def _prepare(self) -> None:
        """Check the components, and give them to the engine."""
        check_model(self.components.setup.model)
        self.components.setup.get_task().check(self.components.setup.model, self.components.data.example(2))
        self._check_evaluator()
        self._count_flops()
        self.components.engine.prepare(self.components.setup, self.make_engine_config())

    def _check_handover(self, train: Split) -> None:
        num_workers, ranks = self.config["num_data_workers"], self.rank.local_world_size
        if num_workers and not isinstance(train, Collector) and not train.in_memory:
            check_handover(self.components.data, self.plan.batch_size_global // self.shard.count, num_workers, ranks)

    def make_engine_config(self) -> EngineConfig:
        """Return the configuration of the engine."""
        intervals = (self.config["eval_every_steps"], self.config["checkpoint"]["every_steps"], self.last_step or 0)
        every = tuple(steps for steps in intervals if steps)
        return replace(
            _make_engine_config(self.config, self.plan, self.rank), sync_every_steps=every, folder=self.folder
        )

    def _batches(self, train: Split, first_step: int, num_steps: int) -> Iterator[Tree]:
        size, config = self.plan.batch_size_global, self.config
        model = self.components.setup.model
        if isinstance(train, Collector):
            shard = self.shard.number, self.shard.count
            return collect_batches(train, model, range(first_step, num_steps), size, config["seed"], shard)
        batches = training_batches(
            train, size, config["seed"], first_step, num_steps, config["num_data_workers"], self.shard
        )
        return copy_ahead(batches, next(model.parameters(), torch.empty(0)).device)

    def _step_metrics(self, done: int, step_time_s: float) -> Mapping[str, float]:
        """Metrics beside a point of the training logger."""
        return self.usage.step_metrics(done, step_time_s)

    def _stop_reason(self, consensus: StopConsensus) -> str | None:
        return "as requested," if self.done == self.last_step else consensus.reason(self.done)

    @contextmanager
    def _as_input_error(self) -> Iterator[None]:
        """Turn a ValueError of a component into an InputError: its cause is in the configuration."""
        try:
            yield
        except ValueError as err:
            problem = explain_normalisation(err, self.plan.batch_size_per_device) or str(err)
            raise InputError([problem], f"the plan for '{self.plan.name}'") from err

    def _check_evaluator(self) -> None:
        """Evaluate two empty examples of each data set, so a wrong evaluator fails now and not after hours."""
        layout, best_metric = make_layout(self.config, self.plan), self.config["checkpoint"]["best_metric"]
        self.interface = check_evaluator(self.components, layout, best_metric)

    def _count_flops(self) -> None:
        """Log DeepSpeed's count for one micro-batch through the whole model, if the run is profiled and its inputs are known."""
        if self.profile_folder is not None and self.rank.number == 0 and self.interface is not None:
            inputs, _ = self.components.data.example(self.plan.batch_size_per_device)
            self.journal.params(count_flops(self.components.setup.model, inputs, self.profile_folder))

    def _log_profile(self, step: int) -> None:
        milliseconds = self.profiler.finish_trace(step)
        if milliseconds is None or self.profile_folder is None:
            return
        ranks = {name: self.components.engine.gather(value) for name, value in milliseconds.items()}
        self.journal.metrics(step + 1, make_profile_metrics(ranks, self.plan.topology.pipe))
        self.journal.artifact("/".join(self.profile_folder.parts[-3:]))  # relative to the run: attempts/1/profile

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.plan.num_steps

    def _restore(self) -> int:
        """Load the newest checkpoint, and return its step; 0 without a checkpoint."""
        checkpoint = self.loader.load_newest()
        if checkpoint is None:
            return 0
        self.checkpointer.last_saved = self.done = checkpoint.step
        self.based_on = checkpoint.journals
        self.evaluated = checkpoint.step, dict(checkpoint.state.get("val", {}))
        self.carried = checkpoint.state.get("train", {})
        self._save_if_best()
        return checkpoint.step

    def _report_warnings(self) -> None:
        for warning in self.checkpoints.warnings:
            self.on_running(self.done, warning)
        self.checkpoints.warnings.clear()

    def _load_splits(self) -> tuple[Split, Split, Split]:
        train, val, test = (self._load_split(name) for name in ("train", "val", "test"))
        train = cast(Split, limit_training(train, self.config, self.plan.batch_size_global))
        val, test = (limit_evaluation(split, train, self.config, self.shard.count) for split in (val, test))
        for name in ("val", "test"):
            own = {key: self._load_split(name, key) for key in self.components.evaluation_sets}
            limited = {key: limit_evaluation(each, train, self.config, self.shard.count) for key, each in own.items()}
            self.evaluation_sets[name] = limited
        return train, val, test

    def _load_split(self, name: str, of: str = "") -> Split:
        """Load a split of the data, or of an evaluation set."""
        data = self.components.evaluation_sets[of] if of else self.components.data
        config = self.config["evaluation_sets"][of] if of else self.config["data"]
        is_first = self.rank.number == 0
        split = load_split(data, name, config, self.journal, self.previous.digests, is_first=is_first, set_name=of)
        return cast(Split, split)  # "train" may be a stream or a collector, which only `_batches` reads

    def _evaluate(self, name: str, split: Split, done: int) -> None:
        if self.config["num_data_workers"]:
            self.checkpointer.wait()  # workers are forks: a lock that the writing thread holds would stay locked in them
        metrics = self.evaluation.measure(name, split)
        self.journal.metrics(done, metrics)
        if name == "val":
            if done < self.plan.num_steps:
                self.journal.metrics(done, self.usage.total_metrics(done, self.components.engine.gather))
            self.evaluated = done, metrics
            with self._as_input_error():
                self.callbacks.on_evaluation(done, metrics)
            self._save_if_best()

    def _save_if_best(self) -> None:
        """Save and mark the evaluated step if it is the best. Repeated after a resume, as a crash may have prevented the mark."""
        settings, (done, metrics) = self.config["checkpoint"], self.evaluated
        metric = settings["best_metric"]
        if metric in metrics:
            best = BestCheckpoint(metric, metrics[metric], settings["best_mode"])
            if self.checkpointer.is_better(best):
                self._save(done, best)
                self._log_delivered(done, metrics)
        elif metric is None and metrics:  # the run delivers its last step
            self._log_delivered(done, metrics)
        elif metrics:  # before the training, not all names were known
            known = ", ".join(sorted(metrics))
            message = f"checkpoint.best_metric={metric} is not a metric of this run; use one of {known}, or null"
            raise InputError([message], f"the plan for '{self.plan.name}'")

    def _evaluate_delivered(self, test: Split) -> None:
        """Measure the weights that the run delivers on the test split."""
        self.checkpointer.wait()
        checkpoint = self.loader.load_delivered(self.done)
        step, metrics = (
            (checkpoint.step, checkpoint.state.get("val", {})) if checkpoint else (self.done, self.evaluated[1])
        )
        if step != self.delivered_step:  # the marked checkpoint is damaged, or no value was a number
            self._log_delivered(step, metrics)
        self._evaluate("test", test, step)
        with self.callbacks.delivered_weights():
            self.artifacts.write(self.components.engine, test, self.journal.path.parent / "test", self.journal)

    def _log_delivered(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the step that the run would deliver now, and its metrics on the validation split."""
        self.delivered_step = step
        values = {delivered_name(name): value for name, value in metrics.items()}
        self.journal.metrics(self.done, {DELIVERED_STEP: step, **values})

    def _make_usage(self, first_step: int) -> ResourceUsage:
        peak = self.config["hardware"]["peak_tflops"]
        return ResourceUsage(
            self.config["system_every_s"],
            self.plan.topology.world,
            self.flops_per_step,
            None if peak is None else peak * 1e12,
            self.previous,
            first_step,
            on_gpu=self._is_on_gpu(),
            covers_all_processes=self.covers_all_processes,
        )

    def _is_on_gpu(self) -> bool:
        return any(parameter.is_cuda for parameter in self.components.setup.model.parameters())

    def _save(self, done: int, best: BestCheckpoint | None = None) -> None:
        if best is None and self.checkpointer.last_saved == done:  # as the best
            return
        start = time.perf_counter()
        self.unsaved.before_save(is_evaluated=bool(self.evaluated[1]))
        self.checkpointer.wait()
        self._report_warnings()
        metrics = self.evaluated[1] if self.evaluated[0] == done else {}
        self.checkpointer.save(done, metrics, best, self.logger.find_carried() if self.logger else {})
        self.journal.metrics(done, {"perf/checkpoint_stall_ms": (time.perf_counter() - start) * 1e3})


def _make_engine_config(config: Mapping[str, Any], plan: Plan, rank: Rank) -> EngineConfig:
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
        seed=config["seed"],
    )
