"""Makes the simulated cluster of a run from its journal, and predicts the speed of other runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pvariance
from typing import Any

from experiments.config.rules.engine import DeclaredEngine, read_engine
from experiments.core.errors import InputError
from experiments.plan.simulate.cluster import BYTES_PER_VALUE, Cluster, MessageTimes
from experiments.plan.simulate.distributions import ConstantTime, Lognormal, Measured, Times
from experiments.plan.simulate.modes import Choices, simulate
from experiments.plan.simulate.result import SimulationResult
from experiments.run import journal
from experiments.trial.trial import Trial
from modules.parallel.cost_model.step_time import UPDATE_ACCESSES, Machine

STEP_TIME = "perf/step_time_ms"
COMPUTE, SPREAD, APPLY = "async/compute_ms_mean", "async/compute_ms_std", "async/apply_ms_mean"
PULL, PUSH = "async/pull_ms_mean", "async/push_ms_mean"
PARTS = (COMPUTE, SPREAD, APPLY, PULL, PUSH)


@dataclass(frozen=True)
class RecordedRun:
    """The measured speed of one run, and its mode and number of workers."""

    name: str
    mode: str
    """Of `experiments.plan.simulate.modes.MODES`."""
    workers: int
    batch_size: int
    """Examples of one worker's step."""
    num_parameters: int
    step_s: tuple[float, ...] = ()
    """Mean step time since the previous log entry, for every log entry but the first, which contains the warm-up."""
    parts_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Times of the `PARTS` of a worker's step for the same log entries; only for runs with servers."""
    servers: int = 1
    choices: Choices = field(default_factory=Choices)
    log_every_steps: int = 1
    num_samples: int | None = None
    """Examples of the whole training."""

    @property
    def num_counted(self) -> int:
        """Workers whose gradients count in an update."""
        return self.workers - (self.choices.num_backup or 0)

    @property
    def examples_per_s(self) -> float:
        """The measured speed."""
        return self.batch_size * self.num_counted * len(self.step_s) / math.fsum(self.step_s)

    def times(self, machine: Machine) -> Times:
        """Computing time of one worker with its own core or device."""
        shared = self._shared(machine)
        if COMPUTE in self.parts_ms:
            mean_s, spread_s = self._part_s(COMPUTE) / shared, self.spread_s / shared
            return Lognormal(mean_s, spread_s / mean_s) if spread_s else ConstantTime(mean_s)
        # The step time is that of the slowest rank, and includes communication.
        exchange_s = Cluster("", machine, ConstantTime(1.0), 1, BYTES_PER_VALUE * self.num_parameters, 0.0).exchange_s(
            self.workers
        )
        compute_s = [max(seconds - exchange_s, 0.05 * seconds) / shared for seconds in self.step_s]
        return Measured(compute_s, slowest_of=self.workers)

    def message_times(self, machine: Machine) -> MessageTimes | None:
        """Of a worker with servers on its machine that does not wait for other workers; None if not measured."""
        if self.mode not in ("async", "hybrid") or self.choices.max_staleness is not None or PULL not in self.parts_ms:
            return None
        apply_s, pull_s, push_s = self._part_s(APPLY), self._part_s(PULL), self._part_s(PUSH)
        rest_s = self.batch_size * self.workers / self.examples_per_s - self._part_s(COMPUTE) - pull_s - push_s
        shared = self._shared(machine)
        return MessageTimes(pull_s / shared, max(0.0, push_s - apply_s) / shared, max(0.0, rest_s) / shared)

    def _part_s(self, name: str) -> float:
        """The mean over all log entries; `APPLY` is the time of each server for its part."""
        return fmean(self.parts_ms[name]) / 1e3 if name in self.parts_ms else 0.0

    @property
    def spread_s(self) -> float:
        """Standard deviation of computing, within and between log entries."""
        within = (value**2 for value in self.parts_ms.get(SPREAD, (0.0,)))
        return math.sqrt(fmean(within) + pvariance(self.parts_ms[COMPUTE])) / 1e3

    def _shared(self, machine: Machine) -> float:
        """Number of workers per core."""
        return max(1.0, min(self.workers, machine.devices_per_node) / machine.concurrent_devices)

    def cluster(self, machine: Machine, **more: Any) -> Cluster:
        """A cluster of workers like those of this run.

        Args:
            machine: the run's, or one with other links and equally fast devices.
            more: fields of the cluster.
        """
        num_bytes = BYTES_PER_VALUE * self.num_parameters
        known = {
            "name": self.name,
            "machine": machine,
            "times": self.times(machine),
            "batch_size": self.batch_size,
            "num_bytes": num_bytes,
            "apply_s": self.servers * self._part_s(APPLY) or UPDATE_ACCESSES * num_bytes / machine.host_bytes_per_s,
            "num_servers": self.servers,
            "measured_message_times": self.message_times(machine),
        }
        return Cluster(**{**known, **more})


def predicted(source: RecordedRun, other: RecordedRun, machine: Machine) -> SimulationResult:
    """Predict the speed of another run from the measurements of one.

    Args:
        source: the measured run.
        other: the predicted run, of which only mode, workers and servers are used.
        machine: of the predicted run.
    """
    cluster = source.cluster(machine, num_servers=other.servers, batch_size=other.batch_size)
    return simulate(cluster, other.mode, other.workers, other.choices)


def read(trial: Trial) -> RecordedRun:
    """Read the speed of a run from its journals.

    Raises:
        InputError: they contain no step times.
    """
    config, parameters = trial.config, 0
    every, params = int(config["log_every_steps"]), {}
    step_s: list[float] = []
    parts_ms: dict[str, list[float]] = {}
    is_first = True
    for event in journal.replay(trial.folder):
        if event["event"] == "params":
            params, is_first = event["params"], True
            parameters = int(params.get("plan.num_parameters") or 0)
        elif event["event"] == "metrics" and STEP_TIME in event["metrics"]:
            if not is_first:
                step_s.append(event["metrics"][STEP_TIME] / 1e3)
                for name in PARTS:
                    if name in event["metrics"]:
                        parts_ms.setdefault(name, []).append(event["metrics"][name])
            is_first = False
    if not step_s or not parameters:
        raise InputError(
            [
                f"run '{trial.folder.name}' has no step time after the first (perf/step_time_ms); run more steps, "
                "or simulate its experiment: `lathe simulate experiment=...`"
            ]
        )
    workers = int(params.get("plan.data") or 1)
    engine = read_engine(config)
    choices = read_choices(engine)
    return RecordedRun(
        name=f"run {trial.folder.name}",
        mode=find_mode(engine),
        workers=workers,
        batch_size=config["batch_size_global"] // (workers - (choices.num_backup or 0)),
        num_parameters=parameters,
        step_s=tuple(step_s),
        parts_ms={name: tuple(values) for name, values in parts_ms.items()},
        servers=int(engine.get("num_servers", 1)),
        choices=choices,
        log_every_steps=every,
        num_samples=int(params.get("plan.num_steps") or 0) * config["batch_size_global"] or None,
    )


def find_mode(engine: DeclaredEngine) -> str:
    """The simulation mode of a run's engine."""
    if not engine.has("num_servers"):
        return "sync"
    if engine.get("num_backup_workers"):
        return "backup"
    if engine.get("max_staleness") == 0:
        return "sync_servers"
    return "hybrid" if engine.get("group_size", 1) > 1 else "async"


def read_choices(engine: DeclaredEngine) -> Choices:
    """The options of the mode in a run's configuration."""
    return Choices(engine.get("num_backup_workers") or None, engine.get("group_size"), engine.get("max_staleness"))
